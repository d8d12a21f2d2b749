"""Folders of the host that stand in for private mounts where there is no mount namespace."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from swift_thyme.sandbox.rootfs import PrivateFolders

__all__ = [
    "WorkerFolder",
    "make_session_folders",
    "private_folders",
    "remove_stale_folders",
    "room_for_a_session",
    "stale_folders",
]

_FOLDER_PREFIX = "swift-thyme-sandbox-"
_UNLOCKED_PREFIX = "swift-thyme-new-"
_PLACES = ("/dev/shm", "/tmp")
_ROOM_BYTES = 2 << 30
"""Free bytes from which on the first place is as good as any: memory is faster than a disk."""
_SHARE = 8
"""Sessions, with copies of their files, that the room of a place has to suffice for."""


class WorkerFolder:
    """The folder in which the sessions of a worker have theirs, locked as long as it lives.

    Raises:
        OSError: There is no place for it.

    Attributes:
        path: It.
    """

    def __init__(self) -> None:
        # Locked before it has the name by which others look for folders that nobody locks.
        new = tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=_place())
        self._lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.chmod(new, 0o711)
        self.path = new.replace(_UNLOCKED_PREFIX, _FOLDER_PREFIX)
        os.rename(new, self.path)

    def remove(self) -> None:
        """Remove it with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def room_for_a_session(parent: str) -> int:
    """Return the bytes that one session may write where it has no file system of its own."""
    return _free_bytes(parent) // _SHARE


def _place() -> str:
    """Return the host's folder for temporary files with the most room.

    ``TMPDIR`` here is the session's. Docker gives a container 64 MiB of shared memory.
    """
    usable = [place for place in _PLACES if os.access(place, os.W_OK | os.X_OK)]
    if not usable:
        raise FileNotFoundError(f"none of {' and '.join(_PLACES)} can be written to")
    return max(usable, key=lambda place: min(_free_bytes(place), _ROOM_BYTES))


def _free_bytes(place: str) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def make_session_folders(parent: str, serial: int, user_id: int | None) -> str:
    """Make the folders of one session; return the one that holds them all."""
    base = f"{parent}/{serial}"
    names = ("output", "tmp", "shm", "inputs", "undo")
    for path in (base, *(f"{base}/{name}" for name in names)):
        os.mkdir(path, 0o700)
        if user_id is not None:
            os.chown(path, user_id, user_id)
    return base


def private_folders(base: str) -> PrivateFolders:
    """Return the private folders of the session whose folder is `base`."""
    return PrivateFolders(f"{base}/output", f"{base}/tmp", f"{base}/shm")


def remove_stale_folders() -> None:
    """Remove folders whose worker is dead; a worker killed by SIGKILL cannot clean up."""
    for path in stale_folders():
        shutil.rmtree(path, ignore_errors=True)


def stale_folders() -> Iterator[str]:
    """Yield each folder of this user whose worker is dead, locked until the next one is asked for.

    A worker in another pid namespace that shares the place is alive where its lock says so.
    """
    for place in _PLACES:
        for path in Path(place).glob(f"{_FOLDER_PREFIX}*"):
            with contextlib.suppress(OSError), _locked(str(path)) as folder:
                if os.fstat(folder).st_uid == os.geteuid():
                    yield str(path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its worker lives
        yield folder
    finally:
        os.close(folder)
