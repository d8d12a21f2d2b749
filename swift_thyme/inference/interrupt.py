"""Ctrl-C, or a request to end, in a command that may have an engine's processes below it.

Engines have threads and processes that catch the signal, or wait for each other while they
start. So nothing is unwound: the processes are ended and the command leaves. What it wrote is
safe, because files are appended line by line and images are renamed into place.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from swift_thyme.sandbox.processes import descendants, kill_quietly

__all__ = ["exit_on_interrupt", "interrupts_left_alone"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 3.0


def _leave(number: int, frame: FrameType | None) -> None:
    for ignored in _SIGNALS:
        signal.signal(ignored, signal.SIG_IGN)
    os.write(sys.stderr.fileno(), b"\ninterrupted\n")
    # Asked first, so that shared memory and GPUs are given back in order.
    for pid in descendants(os.getpid()):
        kill_quietly(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _running()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        kill_quietly(pid)
    os._exit(128 + number)


def _running() -> list[int]:
    """Return the descendants that still run; what has ended is waited for."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state != b"Z":
            found.append(pid)
    return found


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the process and all below it on SIGINT or SIGTERM, without a traceback.

    The exit code is 128 and the number of the signal: 130 after Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_left_alone() -> Iterator[None]:
    """Do nothing on SIGINT or SIGTERM: for code that has handlers of its own and passes them on."""
    before = {number: signal.signal(number, _do_nothing) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    return
