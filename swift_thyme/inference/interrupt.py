"""Ctrl-C in a command that may have an engine's processes below it.

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

__all__ = ["INTERRUPTED", "exit_on_interrupt"]

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""

_PATIENCE_S = 3.0


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(sys.stderr.fileno(), b"\ninterrupted\n")
    # Asked first, so that shared memory and GPUs are given back in order.
    for pid in descendants(os.getpid()):
        kill_quietly(pid, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _running()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        kill_quietly(pid)
    os._exit(INTERRUPTED)


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
    """End the process and all below it on Ctrl-C, with exit code 130 and without a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
