"""Looking at and ending trees of processes through /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Collection
from typing import NamedTuple

__all__ = [
    "descendants",
    "is_stopped",
    "kill_quietly",
    "kill_tree",
    "kill_tree_async",
    "looks",
    "prefer_for_oom",
    "resident_bytes",
    "resident_in",
    "thread_count",
    "unix_sockets",
]

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_OWN = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)
_ALL = re.compile(rb"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_MAX_ROUNDS = 2000
_PAUSE_S = 0.002


def kill_quietly(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    if pid <= 0:
        return  # 0 and -1 would mean whole groups, our own among them
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def prefer_for_oom(pid: int) -> None:
    """Let the kernel, when memory runs out, end this process before the trainer."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("900")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def descendants(pid: int, childless: Collection[int] = ()) -> list[int]:
    """Return the process ids of all descendants, parents before their children.

    Args:
        pid: The process.
        childless: Descendants that are known to have no children.
    """
    found: list[int] = []
    pending = _children(pid)
    while pending:
        found += pending
        pending = [c for parent in pending if parent not in childless for c in _children(parent)]
    return found


def _state(pid: int) -> bytes:
    """Return the state letter of a process, `X` where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return b"X"


class Look(NamedTuple):
    """What a process is doing."""

    is_waiting: bool
    """Whether it neither runs nor waits for a processor, a page or a disk."""
    is_stopped: bool
    """Whether a signal stopped it."""
    processor_s: float
    """Seconds of processor time that it has used."""


def looks(pid: int) -> Look | None:
    """Return what a process is doing; None where it is gone or dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        state, ticks = fields[0], int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return None
    if state in (b"Z", b"X"):
        return None
    return Look(state not in (b"R", b"D"), state in (b"T", b"t"), ticks * _TICK_S)


def is_stopped(pid: int) -> bool:
    """Tell whether a signal stopped a process."""
    look = looks(pid)
    return look is not None and look.is_stopped


def kill_round(root: int, keep: Collection[int], insist: bool) -> tuple[bool, list[int]]:
    """Stop, and once all are stopped kill, the descendants of a process but those in `keep`.

    All are stopped before any is killed: a stopped process still counts towards the process
    limit, so a program that forks as fast as it can runs out of room to fork into.

    Args:
        root: The process, which is left alone.
        keep: Descendants that are left alone.
        insist: Kill even while new ones appear.

    Returns:
        Whether there was none, and those that were killed.
    """
    states = {pid: _state(pid) for pid in descendants(root) if pid not in keep}
    alive = [pid for pid, state in states.items() if state not in (b"Z", b"X")]
    running = [pid for pid in alive if states[pid] not in (b"T", b"t")]
    for pid in running:
        kill_quietly(pid, signal.SIGSTOP)
    killed = alive if not running or insist else []
    for pid in killed:
        kill_quietly(pid)
    return not alive, killed


def kill_tree(root: int) -> None:
    """Kill all descendants of a process and wait for their end; give up after some seconds."""
    for attempt in range(_MAX_ROUNDS):
        if kill_round(root, (), insist=attempt > _MAX_ROUNDS // 2)[0]:
            return
        time.sleep(_PAUSE_S)


async def kill_tree_async(root: int, keep: Collection[int]) -> bool:
    """Kill all descendants but those in `keep`; False where some could not be killed.

    Where this returns they may still be dying, which takes long for one that holds much of the
    kernel's memory. They were stopped before, so they execute nothing any more.
    """
    dying = set(keep)
    for attempt in range(_MAX_ROUNDS):
        none_left, killed = kill_round(root, dying, insist=attempt > _MAX_ROUNDS // 2)
        if none_left:
            return True
        dying.update(killed)
        if attempt and not killed:
            await asyncio.sleep(_PAUSE_S)
    return False


def resident_bytes(pid: int) -> int:
    """Return the anonymous and shared memory of a process in bytes, 0 where it is gone.

    Pages of files are left out: they are the kernel's cache, and a program that touches a page of
    a library takes nothing that was not there before.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return resident_in(file.read())
    except OSError:
        return 0


def resident_in(status: bytes) -> int:
    """Return what :func:`resident_bytes` does, from the text of /proc/PID/status.

    gVisor, and Linux before 4.5, do not tell pages of files from others; there all pages count.
    """
    fields = _OWN.findall(status) or _ALL.findall(status)
    return sum(map(int, fields)) * 1024


def thread_count(pid: int) -> int:
    """Return the number of threads of a process, 0 where it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def unix_sockets(pid: int) -> int:
    """Return the number of unix sockets in the network namespace of a process."""
    try:
        with open(f"/proc/{pid}/net/unix", "rb") as file:
            return max(0, file.read().count(b"\n") - 1)
    except OSError:
        return 0
