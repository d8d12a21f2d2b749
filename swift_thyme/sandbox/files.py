"""The files of a session: what a block changed, and how to undo it.

After each block that succeeded the private folders are copied, file by file and only what
changed; a block that fails is undone from these copies. All of it runs while no process of the
model's code is running, so nothing can be swapped between a check and its use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from swift_thyme.sandbox.rootfs import copy_descriptor

__all__ = ["FileKeeper", "FileView", "disk_use"]

_MAX_DEPTH = 24
_MAX_ENTRIES = 8192


class _Entry(NamedTuple):
    """One file, folder or link; the change time cannot be forged by the program."""

    mode: int
    inode: int
    size: int
    changed_ns: int
    modified_ns: int
    link: str
    device: int

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def same(self, other: _Entry) -> bool:
        if self.is_folder and other.is_folder:
            return self.mode == other.mode
        return self[:4] == other[:4]


def _entry(path: str) -> _Entry | None:
    try:
        return _describe(path, os.lstat(path))
    except OSError:
        return None


def _describe(path: str, info: os.stat_result) -> _Entry:
    link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
    return _Entry(
        info.st_mode,
        info.st_ino,
        info.st_size,
        info.st_ctime_ns,
        info.st_mtime_ns,
        link,
        info.st_dev,
    )


def _walk(folder: str, device: int, depth: int = 0) -> Iterator[tuple[str, _Entry]]:
    """Yield everything beneath a folder, parents first; links and mounts are not entered."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    names.sort()
    for name in names:
        path = f"{folder}/{name}"
        entry = _entry(path)
        if entry is None or entry.device != device:
            continue  # input images and a Python installation can be mounted below /tmp
        yield path, entry
        if depth < _MAX_DEPTH and entry.is_folder:
            yield from _walk(path, device, depth + 1)


def _remove_tree(path: str) -> None:
    """Remove a folder of any depth with constant memory: inner folders are moved up first."""
    parent = os.path.dirname(path)
    pending = [path]
    serial = 0
    while pending:
        folder = pending.pop()
        os.chmod(folder, 0o700)
        for name in os.listdir(folder):
            inner = f"{folder}/{name}"
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                os.chmod(inner, 0o700)
                serial += 1
                moved = f"{parent}/.removed-{os.getpid()}-{serial}"
                os.rename(inner, moved)
                pending.append(moved)
            else:
                os.unlink(inner)
        os.rmdir(folder)


def disk_use(folder: str, max_bytes: int, max_entries: int) -> tuple[int, int]:
    """Return bytes and entries beneath a folder; stops counting where one is over its maximum."""
    size = entries = 0
    for _, entry in _walk(folder, os.stat(folder).st_dev):
        size += entry.size if stat.S_ISREG(entry.mode) else 0
        entries += 1
        if size > max_bytes or entries > max_entries:
            break
    return size, entries


class FileView:
    """What is new in the private folders of one session.

    Args:
        folders: The folders, as this process sees them.
    """

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = [(folder, os.stat(folder).st_dev) for folder in folders]
        self._entries: dict[str, _Entry] = {}
        self._seen: dict[str, _Entry] = {}

    def _current(self) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        for folder, device in self._folders:
            for path, entry in _walk(folder, device):
                found[path] = entry
                if len(found) >= _MAX_ENTRIES:
                    return found
        return found

    def changed(self) -> list[str]:
        """Return the regular files that are new or changed since the base, oldest first."""
        self._seen = self._current()
        found = [
            (entry.modified_ns, path)
            for path, entry in self._seen.items()
            if stat.S_ISREG(entry.mode)
            and not (path in self._entries and self._entries[path].same(entry))
        ]
        return [path for _, path in sorted(found)]

    def keep(self) -> None:
        """Make what `changed` saw last the base."""
        self._entries = self._seen

    def rebase(self) -> None:
        """Make the present files the base."""
        self._entries = self._seen = self._current()


class FileKeeper(FileView):
    """Copies and restores the private folders of one session.

    Args:
        folders: The folders, as this process sees them.
        store: Folder for the copies that the code of the model cannot reach; a
            `/proc/self/fd/N` path or a plain one.
    """

    def __init__(self, folders: tuple[str, ...], store: str) -> None:
        super().__init__(folders)
        self._store = store
        self.rebase()
        self._copies: dict[str, str] = {}
        self._serial = 0

    def commit(self) -> None:
        """Make the present files the ones that `restore` goes back to."""
        current = self._current()
        for path in [p for p in self._copies if p not in current]:
            self._drop_copy(path)
        for path, entry in current.items():
            known = self._entries.get(path)
            if not stat.S_ISREG(entry.mode) or (
                known is not None and known.same(entry) and path in self._copies
            ):
                continue
            self._drop_copy(path)
            self._serial += 1
            copy = f"{self._store}/{self._serial}"
            descriptor = _open_regular(path)
            if descriptor is None:
                continue
            try:
                copy_descriptor(descriptor, copy)
            finally:
                os.close(descriptor)
            self._copies[path] = copy
        self._entries = {path: _entry(path) or entry for path, entry in current.items()}

    def restore(self) -> None:
        """Undo every change since the last commit."""
        for path, entry in list(self._current().items()):
            known = self._entries.get(path)
            if known is not None and known.same(entry):
                continue
            if not os.path.lexists(path):
                continue  # went with its folder
            if entry.is_folder:
                if known is not None and known.is_folder:
                    os.chmod(path, stat.S_IMODE(known.mode))
                else:
                    _remove_tree(path)
            else:
                os.unlink(path)
        for path, entry in self._entries.items():
            if not os.path.lexists(path):
                self._recreate(path, entry)
        self._entries = {path: _entry(path) or entry for path, entry in self._entries.items()}

    def _recreate(self, path: str, entry: _Entry) -> None:
        if entry.is_folder:
            os.mkdir(path, stat.S_IMODE(entry.mode) | 0o700)
        elif entry.link:
            os.symlink(entry.link, path)
        elif path in self._copies:
            source = os.open(self._copies[path], os.O_RDONLY | os.O_CLOEXEC)
            try:
                copy_descriptor(source, path)
            finally:
                os.close(source)
            os.chmod(path, stat.S_IMODE(entry.mode))
            os.utime(path, ns=(entry.modified_ns, entry.modified_ns))

    def _drop_copy(self, path: str) -> None:
        copy = self._copies.pop(path, None)
        if copy is not None:
            os.unlink(copy)


def _open_regular(path: str) -> int | None:
    """Open a file for reading whatever its mode says; None where that is impossible."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        os.chmod(path, 0o600)
        try:
            return os.open(path, flags)
        finally:
            os.chmod(path, mode)
    except OSError:
        return None
