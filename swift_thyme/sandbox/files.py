"""The files of a session: what a block changed, and how to undo it.

After each block that succeeded the private folders are copied, each file once and only what
changed; a block that fails is undone from these copies. Both happen while no process of the
session runs, and go through descriptors of folders (`file_walk`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from swift_thyme.sandbox.file_walk import (
    Entry,
    Found,
    Shut,
    look,
    opened,
    parent_of,
    remove_tree,
    walk,
)

__all__ = ["FileKeeper", "FileView", "copy_file"]

_MAX_ENTRIES = 8192
_CHUNK_BYTES = 1 << 20


def copy_file(source: int, target: int) -> None:
    """Make a file hold what another one does; holes stay holes, and nothing is read at them."""
    size = os.fstat(source).st_size
    os.ftruncate(target, 0)
    os.ftruncate(target, size)
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole is left
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target, source, start, min(end - start, _CHUNK_BYTES))
            if not sent:
                return
            start += sent


class FileView:
    """What is new in the private folders of one session.

    Args:
        folders: The folders, as this process sees them.
    """

    _shut = Shut.SKIP

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._entries: dict[str, Entry] = {}
        self._seen: dict[str, Entry] = {}

    def _all(self, shut: Shut | None = None) -> Iterator[Found]:
        for folder in self._folders:
            yield from walk(folder, self._shut if shut is None else shut)

    def _current(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for item in self._all():
            found[item.path] = item.entry
            if len(found) >= _MAX_ENTRIES:
                break
        return found

    def changed(self) -> list[str]:
        """Return the regular files that are new or changed since the base, oldest first."""
        self._seen = self._current()
        found = [
            (entry.modified_ns, path)
            for path, entry in self._seen.items()
            if entry.is_file and not (path in self._entries and self._entries[path].same(entry))
        ]
        return [path for _, path in sorted(found)]

    def keep(self) -> None:
        """Make what `changed` saw last the base."""
        self._entries = self._seen

    def rebase(self) -> None:
        """Make the present files the base."""
        self._entries = self._seen = self._current()


class _Copy(NamedTuple):
    """A file of the state to go back to."""

    name: str
    """Of its copy in the store."""
    entry: Entry


class FileKeeper(FileView):
    """Copies and restores the private folders of one session.

    Args:
        folders: The folders, as this process sees them.
        store: Descriptor of a folder for the copies, which the code of the model cannot reach.
    """

    _shut = Shut.VISIT

    def __init__(self, folders: tuple[str, ...], store: int) -> None:
        super().__init__(folders)
        self._store = store
        self._copies: dict[int, _Copy] = {}
        """By the number of the file: one with several names is copied once."""
        self._serial = 0
        self.rebase()

    def commit(self, mapped: bool) -> None:
        """Make the present files the ones that `restore` goes back to.

        Args:
            mapped: Whether files may have been changed through memory, which no time shows.

        Raises:
            OSError: There is no room for the copies.
        """
        entries = {item.path: item.entry for item in self._all()}
        copies: dict[int, _Copy] = {}
        for entry in entries.values():
            known = self._copies.get(entry.inode)
            if known is not None and known.entry.same(entry) and not mapped:
                copies[entry.inode] = known
        numbers = {entry.inode for entry in entries.values() if entry.is_file}
        for inode in self._copies.keys() - numbers:
            # First, because there is room for as much as the session can hold and no more.
            os.unlink(self._copies.pop(inode).name, dir_fd=self._store)
        if copies.keys() != numbers:
            for path, entry, folder, name in self._all():
                if not entry.is_file or entry.inode in copies:
                    continue
                with opened(folder, name, os.O_RDONLY) as source:
                    copy = self._copy(source, self._copies.get(entry.inode))
                entries[path] = entry = look(folder, name) or entry
                copies[entry.inode] = _Copy(copy, entry)
        self._entries, self._copies = entries, copies

    def restore(self, mapped: bool) -> None:
        """Undo every change since the last commit.

        A file that is still there is written to in place: the state to go back to may have it
        open, or mapped.

        Args:
            mapped: As for `commit`.

        Raises:
            OSError: It cannot be undone.
        """
        present: dict[str, Entry] = {}
        strangers: dict[str, Entry] = {}
        if not mapped and self._is_unchanged():
            return
        for item in self._all(Shut.OPEN):
            stays = _is_the_same(self._entries.get(item.path), item.entry)
            (present if stays else strangers)[item.path] = item.entry
        for path in strangers.keys() & self._entries.keys():
            self._remove(path, strangers.pop(path))
        names = {e.inode: path for path, e in (*strangers.items(), *present.items()) if e.is_file}
        for path, entry in self._entries.items():
            if path not in present:
                self._bring_back(path, entry, names)
        for path in sorted(strangers):
            self._remove(path, strangers[path])
        self._refill(mapped)
        for path, entry in reversed(self._entries.items()):
            if entry.is_folder:
                with self._parent(path) as (folder, name):
                    os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=folder)
        self._number_again()

    def _is_unchanged(self) -> bool:
        count = 0
        for item in self._all():
            known = self._entries.get(item.path)
            if known is None or not known.same(item.entry):
                return False
            count += 1
        return count == len(self._entries)

    def _parent(self, path: str) -> contextlib.AbstractContextManager[tuple[int, str]]:
        root = next(folder for folder in self._folders if path.startswith(f"{folder}/"))
        return parent_of(root, path)

    def _copy(self, source: int, known: _Copy | None) -> str:
        """Copy a file into the store, over an earlier copy where there is one; return the name."""
        self._serial += known is None
        name = str(self._serial) if known is None else known.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=self._store)
        try:
            copy_file(source, target)
        finally:
            os.close(target)
        return name

    def _remove(self, path: str, entry: Entry) -> None:
        try:
            with self._parent(path) as (folder, name):
                if entry.is_folder:
                    remove_tree(folder, name)
                else:
                    os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return  # it went with its folder

    def _bring_back(self, path: str, entry: Entry, names: dict[int, str]) -> None:
        """Make what is missing: a file that only has another name by that, empty otherwise."""
        with self._parent(path) as (folder, name):
            if entry.is_folder:
                os.mkdir(name, 0o700, dir_fd=folder)
            elif entry.link:
                os.symlink(entry.link, name, dir_fd=folder)
            elif entry.is_file:
                if entry.inode in names:
                    with self._parent(names[entry.inode]) as (source, other):
                        with contextlib.suppress(OSError):  # of another private folder
                            os.link(other, name, src_dir_fd=source, dst_dir_fd=folder)
                if look(folder, name) is None:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(name, flags, 0o600, dir_fd=folder))
                    names[entry.inode] = path

    def _refill(self, mapped: bool) -> None:
        """Give files back what they held."""
        done: set[int] = set()
        for path, entry in self._entries.items():
            if not entry.is_file:
                continue
            copy = self._copies[entry.inode]
            with self._parent(path) as (folder, name):
                present = look(folder, name)
                if present is None or present.inode in done:
                    continue
                done.add(present.inode)
                if not mapped and present.same(copy.entry):
                    continue
                source = os.open(copy.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._store)
                try:
                    with opened(folder, name, os.O_WRONLY) as target:
                        copy_file(source, target)
                        os.fchmod(target, stat.S_IMODE(entry.mode))
                        os.utime(target, ns=(entry.modified_ns, entry.modified_ns))
                finally:
                    os.close(source)

    def _number_again(self) -> None:
        """Note the numbers and times that files have now."""
        current = {item.path: item.entry for item in self._all()}
        copies: dict[int, _Copy] = {}
        for path, entry in self._entries.items():
            if entry.is_file and path in current:
                now = current[path]
                copies[now.inode] = _Copy(self._copies[entry.inode].name, now)
        self._entries, self._copies = current, copies


def _is_the_same(known: Entry | None, entry: Entry) -> bool:
    """Tell whether a file, folder or link is the one that was there, whatever it holds now."""
    if known is None or stat.S_IFMT(known.mode) != stat.S_IFMT(entry.mode):
        return False
    return entry.is_folder or (known.inode == entry.inode and known.link == entry.link)
