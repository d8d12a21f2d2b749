"""Files that a program has open across blocks: a block that is undone leaves them as they were.

A fork shares the place in a file at which is read and written next, so a failed block moves it for
the state to go back to as well. That state notes its places before the block, and returns to them.
A file that the block replaced by another one, or removed, is opened again under its name. Not
covered: pipes and sockets, and what is written to a file that has no name any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import resource
import select
import stat
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["OpenFiles"]

_FIRST = 3
_MOST = 1024
_MAX_NAMES = 8192
_asked = ctypes.create_string_buffer(
    b"".join(struct.pack("ihh", descriptor, 0, 0) for descriptor in range(_FIRST, _MOST))
)
_libc = ctypes.CDLL(None, use_errno=True)
_ANSWER_BYTE = 6 if sys.byteorder == "little" else 7
_IS_OPEN = re.compile(b"[^%c]" % select.POLLNVAL, re.DOTALL)
_OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK


class _OpenFile(NamedTuple):
    descriptor: int
    place: int
    number: tuple[int, int]
    """Device and inode."""
    path: str | None
    """Its name in a private folder; None where it has none."""


class OpenFiles:
    """The places of the files that this process has open; make it to note them.

    Args:
        folders: The private folders, as the code knows them.
    """

    def __init__(self, folders: tuple[str, ...]) -> None:
        found = list(_regular_files())
        names = _names(folders, {number for _, _, number in found}) if found else {}
        self._files = [_OpenFile(*item, names.get(item[2])) for item in found]

    def bring_back(self) -> None:
        """Make all as it was when it was noted; what cannot be is left."""
        for file in self._files:
            with contextlib.suppress(OSError):
                if file.path is not None and not _is(file.path, file.number):
                    _open_again(file.descriptor, file.path)
                os.lseek(file.descriptor, file.place, os.SEEK_SET)


def _is(path: str, number: tuple[int, int]) -> bool:
    found = os.stat(path, follow_symlinks=False)
    return (found.st_dev, found.st_ino) == number


def _open_again(descriptor: int, path: str) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & _OPEN_FLAGS
    inheritable = os.get_inheritable(descriptor)
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.dup2(opened, descriptor, inheritable)
    finally:
        os.close(opened)


def _regular_files() -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield the descriptor, the place and the number of each file."""
    for descriptor in _open_descriptors():
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                place = os.lseek(descriptor, 0, os.SEEK_CUR)
                yield descriptor, place, (status.st_dev, status.st_ino)


def _open_descriptors() -> list[int]:
    """Return every open descriptor from 3 on, with one system call for all of them.

    There is no /proc in a session. A block waits for this, so it takes microseconds.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = max(0, min(limit, _MOST) - _FIRST)
    _libc.poll(_asked, count, 0)
    answers = memoryview(_asked).cast("B")[: count * 8].tobytes()[_ANSWER_BYTE::8]
    return [_FIRST + match.start() for match in _IS_OPEN.finditer(answers)]


def _names(folders: tuple[str, ...], numbers: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Return a name for each file that has one in the folders."""
    names: dict[tuple[int, int], str] = {}
    waiting = list(folders)
    looked = 0
    while waiting and looked < _MAX_NAMES and len(names) < len(numbers):
        folder = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                looked += 1
                # Not the entry's own path: on hosts without mount namespaces, functions that take a
                # path expect the one that the code knows.
                path = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                    continue
                status = entry.stat(follow_symlinks=False)
                number = (status.st_dev, status.st_ino)
                if number in numbers:
                    names.setdefault(number, path)
    return names
