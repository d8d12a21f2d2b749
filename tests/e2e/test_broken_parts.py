"""Jobs that lose a part while they train end with one line that says which, and never hang."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.host.server_watch import ENGINE_DIED
from swift_thyme.sandbox.processes import descendants
from tests.conftest import ROOT, cpu_environment, python_program
from tests.sandbox.servers import ServerProcess

from .jobs import SWIFT, as_argv, grpo_flags, rollout_server, server_flags, training_log

pytestmark = [pytest.mark.slow, pytest.mark.ci]

MANY_STEPS = 1000
PATIENCE_S = 400


@contextmanager
def running_job(
    log: Path, flags: dict[str, Any], before: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a training job, by the program `before` if there is one; it is gone afterwards."""
    with log.open("wb") as file:
        job = subprocess.Popen(
            [*before, *python_program(*SWIFT, "rlhf", *as_argv(flags))],
            cwd=ROOT,
            env=cpu_environment(**environment),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def wait_for_a_step(job: subprocess.Popen[bytes], output: Path, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while not any('"reward"' in path.read_text() for path in output.glob("**/logging.jsonl")):
        assert job.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.1)


def last_line(log: Path) -> str:
    """Return what a job ended with, without what other threads wrote after it."""
    said = [line for line in log.read_text().splitlines() if "Error: " in line]
    assert said, log.read_text()[-4000:]
    return said[-1]


def test_a_sandbox_that_dies_while_a_job_trains_stops_it(tmp_path: Path, tiny_data: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    flags = grpo_flags(tiny_data, output, steps=MANY_STEPS)
    with ServerProcess() as sandbox:
        environment = {"THYME_SANDBOX_URL": sandbox.url, "THYME_SANDBOX_OPEN_S": "2"}
        with running_job(log, flags, **environment) as job:
            wait_for_a_step(job, output, log)
            sandbox.process.kill()
            assert job.wait(PATIENCE_S) != 0
    assert "SandboxDeadError: the job stops because no code can be run: " in last_line(log)
    assert len(training_log(output)) < MANY_STEPS
    said = log.read_text()
    assert "before the first step: sandbox works (" in said and "engine has the hook (" in said
    assert "preflight: groups: 8 samples a rollout" in said


def test_an_engine_that_is_killed_under_a_server_stops_the_trainer(
    tmp_path: Path, tiny_data: Path
) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    mode = {"use_vllm": True, "vllm_mode": "server", "vllm_server_host": "127.0.0.1"}
    flags = grpo_flags(tiny_data, output, steps=MANY_STEPS) | mode
    path = f"{ROOT}:{ROOT / 'tests' / 'e2e' / 'cpu_server'}"
    with rollout_server(tmp_path / "server.log", server_flags()) as port:
        with running_job(log, flags | {"vllm_server_port": port}, PYTHONPATH=path) as job:
            wait_for_a_step(job, output, log)
            for pid in engines():
                os.kill(pid, signal.SIGKILL)
            assert job.wait(PATIENCE_S) != 0
    assert ENGINE_DIED in last_line(log)


OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
FILLING = """
set -e
folder=$1 kept=$2 output=$3
shift 3
if [ "$folder" = /tmp ]; then
  mount --bind "$kept" /dev/shm
  mount -t tmpfs -o size=64m temporary /tmp
  mkdir -p "$kept"
  mount --move /dev/shm "$kept"
  mount --bind /tmp /dev/shm
  # Without mounts of its own, a session has its files there.
  echo 0 > /proc/sys/user/max_user_namespaces
  echo 0 > /proc/sys/user/max_mnt_namespaces
else
  mount -t tmpfs -o size=32m output "$folder"
fi
(
  until grep -q '"reward"' "$output"/*/logging.jsonl; do sleep 0.2; done
  until cat /dev/zero; do sleep 0.1; done >> "$folder/filling"
) 2> /dev/null &
trap "kill $!" EXIT
"$@"
"""
"""Runs a job whose disk, that of a folder, is small and fills once the job has made a step."""


@pytest.mark.parametrize("what", ["output", "temporary"])
def test_a_disk_that_fills_while_a_job_trains_stops_it(
    what: str, tmp_path: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "x", "/tmp"], check=False).returncode:
        pytest.skip("this host lets nobody mount anything")
    output, log = tmp_path / "run", tmp_path / "log"
    output.mkdir()
    folder = {"output": str(output), "temporary": "/tmp"}[what]
    if what == "temporary" and any(
        str(Path(path).resolve()).startswith("/tmp/") for path in (ROOT, sys.prefix)
    ):
        pytest.skip("checkout or environment lie in /tmp, which the test covers")
    kept = str(tmp_path_factory.getbasetemp())
    before = [*OWN_MOUNTS, "bash", "-c", FILLING, "bash", folder, kept, str(output)]
    flags = grpo_flags(tiny_data, output, steps=MANY_STEPS)
    with running_job(log, flags, before) as job:
        assert job.wait(PATIENCE_S) == 1, log.read_text()[-4000:]
    (line,) = (one for one in log.read_text().splitlines() if one.startswith("error: "))
    name = f"--output_dir {output}" if what == "output" else "/tmp has 0 of 64 MiB free"
    assert line.startswith(f"error: the job ended because a disk is full: {name}")
    if what == "temporary":
        assert "SandboxDeadError: the job stops because no code can be run: " in last_line(log)
        assert not any("thyme/end/sandbox_failure" in step for step in training_log(output))


def engines() -> list[int]:
    """Return the processes of this one's children in which vLLM's engine runs."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if b"EngineCore" in command:
            found.append(pid)
    assert found
    return found
