"""Ends an engine's processes when the process that started them is killed.

vLLM's processes outlive a parent that gets SIGKILL, and keep its GPU memory: the run that is to go
on would not find any. A small process of its own waits for the end of a pipe that only the parent
holds, and then ends what was named to it.

``python -m swift_thyme.inference.engine_guard PID:START ...`` is that process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence

from swift_thyme.sandbox.process_environment import package_root
from swift_thyme.sandbox.processes import descendants, kill_quietly

__all__ = ["OrphanGuard"]


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the kernel's ticks; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except OSError:
        return None


def _is_tracker(pid: int) -> bool:
    """Tell whether a process is Python's own, which ends by itself and cleans up as it does."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"resource_tracker" in file.read()
    except OSError:
        return False


class OrphanGuard:
    """Guards the processes that were started below this one; close it when they have ended.

    Args:
        before: Process ids that were there already and belong to others.
    """

    def __init__(self, before: Collection[int]) -> None:
        pids = [pid for pid in descendants(os.getpid()) if pid not in before]
        names = [f"{pid}:{_start_time(pid)}" for pid in pids if not _is_tracker(pid)]
        read, self._write = os.pipe()
        path = os.pathsep.join(filter(None, [package_root(), os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "swift_thyme.inference.engine_guard", *names],
                stdin=read,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        finally:
            os.close(read)

    def close(self) -> None:
        """Let the guard end what still runs, and itself; may be called twice."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
            self._process.wait()


def main(names: Sequence[str]) -> None:
    """Wait for the end of standard input, then end the named processes that still run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        continue
    for name in names:
        pid, _, start = name.partition(":")
        # A number may be another process's by now; the time at which it started is not.
        if start == _start_time(int(pid)):
            kill_quietly(int(pid))


if __name__ == "__main__":
    main(sys.argv[1:])
