"""Names the disk that is full, where a job ends because one is.

A job writes its log, its checkpoints and temporary files in code of ms-swift, torch and others.
Where a disk is full, what they raise says neither which disk nor what to do, and torch's error of a
checkpoint does not even say that it is a disk. So the last line of such a job is ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

__all__ = ["explain_full_disks", "full_disk_line"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded")
"""How libraries spell it that raise errors of their own."""
_LEAST_BYTES = 1 << 20
"""Free bytes below which a disk counts as full."""


def full_disk_line(error: BaseException, output_dir: str | None) -> str | None:
    """Return the line that says which disk ended a job; None where nothing points to one.

    Args:
        error: What ended the job.
        output_dir: The job's output folder; None where it has none yet.
    """
    said = any(_says_so(one) for one in _chain(error))
    places = list(_places(output_dir))
    full = [place for place in places if place.room.is_full]
    if full:
        reason = "the job ended because a disk is full" if said else "a disk is full"
        found = "; ".join(f"{place.name} has {place.room}: {place.advice}" for place in full)
        return f"error: {reason}: {found}"
    if not said:
        return None
    found = ", ".join(f"{place.name} {place.room}" for place in places)
    return (
        "error: the job ended because a disk or a quota was full. What met it names no folder, and "
        f"now there is room: {found}"
    )


def explain_full_disks(output_dir: Callable[[], str | None]) -> None:
    """Let a line about the full disk follow the error that ends this process.

    Args:
        output_dir: Tells the job's output folder once it is asked.
    """
    before = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        line = full_disk_line(error, output_dir()) if isinstance(error, Exception) else None
        if line is not None:
            sys.stderr.write(f"{line}\n")

    sys.excepthook = say


class _Room(NamedTuple):
    """What a file system has left."""

    free_bytes: int
    all_bytes: int
    lacks_files: bool
    """Whether it counts files and has no more to give."""

    @property
    def is_full(self) -> bool:
        return self.free_bytes < min(_LEAST_BYTES, self.all_bytes) or self.lacks_files

    def __str__(self) -> str:
        sizes = f"{self.free_bytes >> 20} of {self.all_bytes >> 20} MiB free"
        return f"{sizes} and room for no more files" if self.lacks_files else sizes


class _Place(NamedTuple):
    """A folder that jobs write to."""

    name: str
    room: _Room
    advice: str


def _places(output_dir: str | None) -> Iterator[_Place]:
    temporary = _temporary()
    asked = [
        (temporary, temporary, "make room, or set TMPDIR to another folder"),
        ("/dev/shm", "/dev/shm", "make room, or give the container more (--shm-size)"),
    ]
    if output_dir is not None:
        advice = "make room, or give another --output_dir"
        asked.insert(0, (f"--output_dir {output_dir}", _existing(output_dir), advice))
    for name, folder, advice in asked:
        # A folder that is not there, or whose server is gone, has an error of its own.
        with contextlib.suppress(OSError):
            yield _Place(name, _room(folder), advice)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        # It tries to write, and finds no folder in which that works.
        return "/tmp"


def _existing(folder: str) -> str:
    """Return the folder, or the one above it that exists."""
    path = Path(folder).absolute()
    return str(next(one for one in (path, *path.parents) if one.is_dir()))


def _room(folder: str) -> _Room:
    found = os.statvfs(folder)
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    lacks_files = found.f_files > 0 and found.f_ffree == 0
    return _Room(free * found.f_frsize, found.f_blocks * found.f_frsize, lacks_files)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    return any(words in str(error) for words in _WORDS)
