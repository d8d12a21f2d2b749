"""Jobs that lose a part while they train end with one line that says which, and never hang."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
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
    log: Path, flags: dict[str, Any], **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a training job; it is gone afterwards."""
    with log.open("wb") as file:
        job = subprocess.Popen(
            python_program(*SWIFT, "rlhf", *as_argv(flags)),
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
