"""A job of two processes whose rollouts are uneven: nobody waits, and an error ends both."""

import json
import time
from pathlib import Path

import pytest

from swift_thyme.rewards.local_judge import LocalJudge
from tests.conftest import ROOT, free_port

from . import parity_scripts as scripts
from .jobs import grpo_flags, training_log
from .test_broken_parts import running_job
from .test_parity import VLLM

pytestmark = [pytest.mark.slow, pytest.mark.ci]

PATIENCE_S = 400
TRAJECTORIES = 4
"""Of each process in a step."""


def rows_of(folder: Path, data: Path, script: str) -> Path:
    """Write rows that all ask for the same script."""
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for line in (data / "rl.jsonl").read_text().splitlines():
            row = json.loads(line)
            for message in row["messages"]:
                message["content"] = message["content"].replace(
                    row["question"], scripts.question_of(script)
                )
            file.write(json.dumps({**row, "solution": "2"}) + "\n")
    return path


def test_a_process_waits_for_no_other_in_a_rollout_and_ends_with_it(
    tmp_path: Path, tiny_data: Path
) -> None:
    output, log, gate = tmp_path / "run", tmp_path / "log", tmp_path / "gate"
    gate.mkdir()
    plugins = ("tests/e2e/uneven_plugin.py",)
    flags = grpo_flags(tiny_data, output, steps=2, plugins=plugins) | {
        "dataset": str(rows_of(tmp_path, tiny_data, "three turns")),
        "reward_funcs": ["fmt_orm", "vqa_prm"],
        "max_turns": scripts.MAX_TURNS,
        "max_completion_length": scripts.MAX_TURN_TOKENS,
        "per_device_train_batch_size": TRAJECTORIES,
        "ddp_backend": "gloo",
        "use_vllm": True,
        "vllm_mode": "colocate",
        **VLLM,
        "vllm_max_model_len": 1024,
        "vllm_gpu_memory_utilization": 0.2,
    }
    with LocalJudge() as judge:
        environment = {
            "THYME_GATE": str(gate),
            "THYME_JUDGE_URLS": judge.url,
            "THYME_JUDGE_MODEL": "local",
            "THYME_JUDGE_STEP_TIMEOUT_S": "8",
            "NPROC_PER_NODE": "2",
            "MASTER_PORT": str(free_port()),
            "PYTHONPATH": str(ROOT),
        }
        with running_job(log, flags, **environment) as job:
            end = time.monotonic() + PATIENCE_S
            while not (gate / "done").exists():
                assert job.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
                time.sleep(0.1)
            # In the middle of the other process's rollout.
            judge.stop()
            (gate / "go").touch()
            assert job.wait(PATIENCE_S) != 0
    said = log.read_text()
    assert "each trajectory goes on when its code is done" in said
    assert "RuntimeError: a turn fails in the second process" in said
    # The first step has the trajectories of both, and no verdict of the judge.
    (step,) = training_log(output)
    assert step["thyme/trajectories"] == 2 * TRAJECTORIES
    assert step["thyme/turns"] == 3 and step["thyme/end/answer"] == 1
    assert step["thyme/judge_failed"] > 0 and step["thyme/rewards_unscored"] > 0
    parts = {name: value for name, value in step.items() if name.startswith("thyme/time/")}
    assert {"thyme/time/generation", "thyme/time/logprobs", "thyme/time/update"} < parts.keys()
    assert sum(parts.values()) == pytest.approx(2 * parts["thyme/time/step"], rel=0.01)
