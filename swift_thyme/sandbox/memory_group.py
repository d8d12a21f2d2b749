"""The memory of a session as the kernel counts it, where a control group can be made.

Such a group also counts what no process shows as its own: page tables, files in memory, the buffers
of sockets and pipes. It is a backstop: `supervision` measures processes against the limit of the
settings, and the group holds all that a session can have at a time, which is the state to go back
to as well, and the copies of its files. Version 1 of the kernel's interface is that of
admin-guide/cgroup-v1/memory, version 2 that of admin-guide/cgroup-v2.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import NamedTuple

from swift_thyme.sandbox.sandbox_settings import SandboxSettings

__all__ = ["GroupPlace", "MemoryGroup", "MemoryGroups", "find_place"]

_PREFIX = "swift-thyme-"
_STALE_S = 60.0
_LAST_WAIT_S = 1.0
_MIB = 1 << 20
_SPARE_BYTES = 256 * _MIB
"""For what the libraries change in each process, and for the encoder."""


class GroupPlace(NamedTuple):
    """Where groups can be made."""

    folder: str
    limit_file: str
    events: str
    """File that counts how often the kernel ended a process of a group."""


_VERSION_1 = ("memory.limit_in_bytes", "memory.oom_control")
_VERSION_2 = ("memory.max", "memory.events")


def find_place() -> GroupPlace:
    """Return where groups can be made; one is made there and removed.

    Raises:
        OSError: Nowhere; the message says why.
    """
    reasons: list[str] = []
    for folder, files in _candidates():
        place = GroupPlace(folder, *files)
        try:
            MemoryGroup(place, 1 << 30).remove()
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
        else:
            _remove_stale(folder)
            return place
    raise OSError("; ".join(reasons) or "no memory controller is mounted")


def _candidates() -> list[tuple[str, tuple[str, str]]]:
    """List folders beneath this process's own group, or beside it, so that its limits hold too."""
    mounts: dict[str, str] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
                mounts[kind] = before.split()[4]
    found: list[tuple[str, tuple[str, str]]] = []
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(",") and "cgroup" in mounts:
                found.append((os.path.normpath(mounts["cgroup"] + path), _VERSION_1))
            elif not controllers and "cgroup2" in mounts:
                # A group that holds processes cannot give its memory to groups beneath it.
                own = os.path.normpath(mounts["cgroup2"] + path)
                found += [(own, _VERSION_2), (os.path.dirname(own), _VERSION_2)]
    return found


def _remove_stale(folder: str) -> None:
    """Remove groups of workers that were killed; those with processes cannot be removed."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(_PREFIX):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_ctime > _STALE_S:
                        os.rmdir(entry.path)


def group_bytes(settings: SandboxSettings) -> int:
    """Return the limit of a session's group: its memory and its files, each with its copy."""
    return 2 * (settings.memory_mb + settings.disk_mb) * _MIB + _SPARE_BYTES


class MemoryGroup:
    """A control group for one session. Making one makes it.

    Args:
        place: Where.
        limit: Bytes.

    Raises:
        OSError: It cannot be made.
    """

    _serial = 0

    def __init__(self, place: GroupPlace, limit: int) -> None:
        MemoryGroup._serial += 1
        self._place = place
        self._seen = "0"
        self._path = f"{place.folder}/{_PREFIX}{os.getpid()}-{MemoryGroup._serial}"
        os.mkdir(self._path)
        try:
            _write(f"{self._path}/{place.limit_file}", str(limit))
        except OSError:
            os.rmdir(self._path)
            raise

    def add(self, pid: int) -> None:
        """Put a process into it, with all that it forks from now on.

        Raises:
            OSError: It is gone, or the kernel refuses.
        """
        _write(f"{self._path}/cgroup.procs", str(pid))

    def has_ended_one(self) -> bool:
        """Tell whether the kernel ever ended a process because the group was over its limit."""
        return self._ended() != "0"

    def has_ended_another(self) -> bool:
        """Tell whether the kernel ended one since this was asked last."""
        before, self._seen = self._seen, self._ended()
        return before != self._seen

    def _ended(self) -> str:
        try:
            with open(f"{self._path}/{self._place.events}") as file:
                return dict(line.split() for line in file).get("oom_kill", "0")
        except OSError:
            return "0"

    def remove(self) -> bool:
        """Remove it; tell whether that is done, which it is once its processes are gone."""
        try:
            os.rmdir(self._path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class MemoryGroups:
    """Makes the groups of a worker's sessions, and removes them.

    Args:
        place: Where; None where there can be none.
        settings: The limits of a session.
    """

    def __init__(self, place: GroupPlace | None, settings: SandboxSettings) -> None:
        self._place = place
        self._limit = group_bytes(settings)
        self._left: list[MemoryGroup] = []

    def make(self) -> MemoryGroup | None:
        """Return a new group, or None where none can be made."""
        self.tidy()
        if self._place is None:
            return None
        try:
            return MemoryGroup(self._place, self._limit)
        except OSError as error:
            sys.stderr.write(f"a session has no memory group: {error}\n")
            return None

    def remove(self, group: MemoryGroup | None) -> None:
        """Remove a group now, or later where its processes are not gone yet."""
        if group is not None and not group.remove():
            self._left.append(group)

    def tidy(self) -> None:
        """Remove what could not be removed before."""
        self._left = [group for group in self._left if not group.remove()]

    def close(self) -> None:
        """Wait a little for the last processes to be gone, and remove what is left."""
        deadline = time.monotonic() + _LAST_WAIT_S
        while self._left and time.monotonic() < deadline:
            self.tidy()
            time.sleep(0.01)


def _write(path: str, text: str) -> None:
    # Not buffered: what the kernel says of it must be said here.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
