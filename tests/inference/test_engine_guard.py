"""Processes of an engine do not outlive a command that was killed. Real processes, real signals."""

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import ROOT, cpu_environment, python_program

PARENT = """
import subprocess, sys, time
from swift_thyme.inference.engine_guard import OrphanGuard
sleep = [sys.executable, "-c", "import time; time.sleep(120)"]
# Their output must not be the test's pipe, whose end the test waits for.
options = {"start_new_session": True, "stdout": subprocess.DEVNULL}
other = subprocess.Popen(sleep, **options)
child = subprocess.Popen(sleep, **options)
guard = OrphanGuard({other.pid})
print(child.pid, guard._process.pid, other.pid, flush=True)
if sys.argv[1] == "close":
    guard.close()
    print(child.wait(), other.poll(), flush=True)
time.sleep(120)
"""


def start(how: str) -> tuple[subprocess.Popen[str], int, int, int]:
    parent = subprocess.Popen(
        python_program("-c", PARENT, how),
        cwd=ROOT,
        env=cpu_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child, guard, other = map(int, parent.stdout.readline().split())
    return parent, child, guard, other


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_the_end(*pids: int) -> bool:
    for _ in range(500):
        if not any(map(runs, pids)):
            return True
        time.sleep(0.02)
    return False


def test_the_processes_below_a_killed_one_are_ended() -> None:
    parent, child, guard, other = start("sleep")
    assert runs(child) and runs(guard)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert wait_for_the_end(child, guard)
    assert runs(other)
    os.kill(other, signal.SIGKILL)


def test_closing_the_guard_ends_what_is_left() -> None:
    parent, _, guard, other = start("close")
    assert parent.stdout is not None
    assert parent.stdout.readline().split() == ["-9", "None"]
    assert wait_for_the_end(guard)
    parent.kill()
    parent.communicate()
    os.kill(other, signal.SIGKILL)
