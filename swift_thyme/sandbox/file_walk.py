"""Going through the folders of a session without following anything that its code put there.

Folders are entered one by one through descriptors and links are never followed, so a path cannot
lead anywhere else, whatever the program made of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

__all__ = [
    "Entry",
    "Found",
    "Shut",
    "disk_use",
    "look",
    "opened",
    "parent_of",
    "remove_tree",
    "walk",
]

_BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system (stat(2))."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_PATH_CHARS = 4096
"""Longest path that a program can open at once (PATH_MAX); what lies deeper is left alone."""
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """One file, folder or link; the change time cannot be forged by the program."""

    mode: int
    inode: int
    size: int
    changed_ns: int
    modified_ns: int
    link: str
    device: int
    blocks: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    def same(self, other: Entry) -> bool:
        """Tell whether nothing was done to it."""
        if self.is_folder and other.is_folder:
            return self.mode == other.mode
        return self[:4] == other[:4]


class Found(NamedTuple):
    """An entry and the folder that holds it, which is open until the next one is asked for."""

    path: str
    entry: Entry
    folder: int
    name: str


def look(folder: int, name: str) -> Entry | None:
    """Return what a folder holds under a name, None where there is nothing."""
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        link = os.readlink(name, dir_fd=folder) if stat.S_ISLNK(info.st_mode) else ""
    except OSError:
        return None
    return Entry(
        info.st_mode,
        info.st_ino,
        info.st_size,
        info.st_ctime_ns,
        info.st_mtime_ns,
        link,
        info.st_dev,
        info.st_blocks,
    )


class Shut(Enum):
    """What to do with folders that are shut to their owner."""

    SKIP = "skip"
    """Nothing. All else is only for a time at which no process of the session runs."""
    VISIT = "visit"
    """Enter them, and shut them again."""
    OPEN = "open"
    """Enter them, and leave them open."""


def walk(root: str, shut: Shut = Shut.SKIP) -> Iterator[Found]:
    """Go through everything beneath a folder, parents first; links and mounts are not entered.

    Args:
        root: The folder, which must be no link itself.
        shut: What to do with folders that are shut to their owner.
    """
    return iter(_Walk(root, shut))


class _Level(NamedTuple):
    """A folder that is being walked through."""

    path: str
    inode: int
    names: list[str]
    """What is left of it."""
    mode_before: int | None
    """The mode that it had, where that had to be changed to enter it."""


class _Walk:
    """A walk. One descriptor is open at a time, however deep the tree is.

    The way back up is `..`, which is taken only where it leads to the folder that the walk came
    from: a program may move folders meanwhile.
    """

    def __init__(self, root: str, shut: Shut) -> None:
        self._root = root
        self._shut = shut
        self._levels: list[_Level] = []
        self._folder = -1

    def __iter__(self) -> Iterator[Found]:
        try:
            self._folder = os.open(self._root, FOLDER)
        except OSError:
            return
        try:
            device = os.fstat(self._folder).st_dev
            self._enter(self._root, None)
            while self._levels:
                level = self._levels[-1]
                if not level.names:
                    if not self._leave():
                        return
                    continue
                name = level.names.pop()
                entry = look(self._folder, name)
                if entry is None or entry.device != device:
                    continue  # input images and a Python installation can be mounted below /tmp
                path = f"{level.path}/{name}"
                yield Found(path, entry, self._folder, name)
                if entry.is_folder and len(path) < _MAX_PATH_CHARS:
                    self._descend(path, name)
        finally:
            os.close(self._folder)

    def _descend(self, path: str, name: str) -> None:
        mode_before = None
        try:
            inner = os.open(name, FOLDER, dir_fd=self._folder)
            mode = os.fstat(inner).st_mode
        except PermissionError:
            inner, mode = -1, 0
        except OSError:
            return  # it went meanwhile
        if self._shut is not Shut.SKIP and mode & 0o700 != 0o700:
            entry = look(self._folder, name)
            if entry is None or not entry.is_folder:
                return
            mode_before = stat.S_IMODE(entry.mode)
            os.chmod(name, 0o700, dir_fd=self._folder)
            if inner < 0:
                inner = os.open(name, FOLDER, dir_fd=self._folder)
        if inner < 0:
            return
        os.close(self._folder)
        self._folder = inner
        self._enter(path, mode_before)

    def _enter(self, path: str, mode_before: int | None) -> None:
        try:
            names = os.listdir(self._folder)
        except OSError:
            names = []
        names.sort(reverse=True)
        self._levels.append(_Level(path, os.fstat(self._folder).st_ino, names, mode_before))

    def _leave(self) -> bool:
        """Go back up; tell whether that leads to where the walk came from."""
        level = self._levels.pop()
        if not self._levels:
            return True
        try:
            outer = os.open("..", FOLDER, dir_fd=self._folder)
        except OSError:
            return False
        if level.mode_before is not None and self._shut is Shut.VISIT:
            os.fchmod(self._folder, level.mode_before)
        os.close(self._folder)
        self._folder = outer
        return os.fstat(outer).st_ino == self._levels[-1].inode


@contextlib.contextmanager
def parent_of(root: str, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder that holds `path`, step by step from `root`; give it and the last name."""
    *steps, name = path[len(root) + 1 :].split("/")
    folder = os.open(root, FOLDER)
    try:
        for step in steps:
            inner = os.open(step, FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder, name
    finally:
        os.close(folder)


@contextlib.contextmanager
def opened(folder: int, name: str, flags: int) -> Iterator[int]:
    """Open a file whatever its mode says, which it keeps.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        descriptor = os.open(name, flags | _FILE, dir_fd=folder)
        mode = None
    except PermissionError:
        mode = stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        os.chmod(name, 0o600, dir_fd=folder)
        descriptor = os.open(name, flags | _FILE, dir_fd=folder)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        yield descriptor
    finally:
        os.close(descriptor)


def remove_tree(folder: int, name: str) -> None:
    """Remove a folder of any depth and everything in it, with one descriptor at a time."""
    os.chmod(name, 0o700, dir_fd=folder)
    here = os.open(name, FOLDER, dir_fd=folder)
    way: list[str] = []
    try:
        while True:
            inner = _remove_files(here)
            if inner is not None:
                os.chmod(inner, 0o700, dir_fd=here)
                next_ = os.open(inner, FOLDER, dir_fd=here)
                way.append(inner)
            elif way:
                next_ = os.open("..", FOLDER, dir_fd=here)
            else:
                break
            os.close(here)
            here = next_
            if inner is None:
                os.rmdir(way.pop(), dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=folder)


def _remove_files(folder: int) -> str | None:
    """Remove what a folder holds up to the first folder in it; return the name of that one."""
    for name in os.listdir(folder):
        entry = look(folder, name)
        if entry is not None and entry.is_folder:
            return name
        os.unlink(name, dir_fd=folder)
    return None


def disk_use(folder: str, max_bytes: int, max_entries: int) -> tuple[int, int]:
    """Return bytes and entries beneath a folder; stops counting where one is over its maximum.

    A file with several names counts once, and the holes of a file do not count.
    """
    size = entries = 0
    known: set[int] = set()
    for found in walk(folder):
        entries += 1
        if found.entry.is_file and found.entry.inode not in known:
            known.add(found.entry.inode)
            size += found.entry.blocks * _BLOCK_BYTES
        if size > max_bytes or entries > max_entries:
            break
    return size, entries
