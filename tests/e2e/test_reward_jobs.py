"""Rewards inside real ms-swift jobs: alone, and with a judge that dies and comes back."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.rewards.local_judge import LocalJudge
from tests.conftest import ROOT, cpu_environment
from tests.e2e.jobs import SWIFT, as_argv, grpo_flags, swift, training_log

ALL_REWARDS = [
    "fmt_orm",
    "vqa_orm",
    "cst_orm",
    "code_orm",
    "code_orm_llm",
    "vqa_prm",
    "code_prm",
]


@pytest.mark.slow
def test_the_rewards_alone_in_a_single_turn_job_without_o3(tmp_path: Path, tiny_data: Path) -> None:
    flags = grpo_flags(tiny_data, tmp_path / "run")
    del flags["O3"]
    flags["external_plugins"] = ["plugin/rewards_only.py", "plugin/testbed.py"]
    flags["max_completion_length"] = 40
    job = swift("rlhf", *as_argv(flags))
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    (step,) = training_log(tmp_path / "run")
    assert {"rewards/FmtORM/mean", "rewards/VqaORM/mean", "rewards/CstORM/mean"} <= step.keys()
    assert not any(name.startswith("thyme/turns") for name in step)


def wait_for_steps(process: subprocess.Popen[str], output: Path, steps: int) -> None:
    """Wait until the log of a running job holds this many training steps, or the job ended."""
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        logs = list(output.glob("**/logging.jsonl"))
        if logs and logs[0].read_text().count('"reward"') >= steps:
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_training_goes_on_while_the_judge_is_away(tmp_path: Path, tiny_data: Path) -> None:
    output = tmp_path / "run"
    flags = grpo_flags(tiny_data, output, steps=3) | {
        "reward_funcs": ALL_REWARDS,
        "log_completions": True,
    }
    with LocalJudge() as judge, open(tmp_path / "log", "w+") as log:
        environment = cpu_environment(
            THYME_JUDGE_URLS=judge.url, THYME_JUDGE_MODEL="local", THYME_JUDGE_STEP_TIMEOUT_S="8"
        )
        process = subprocess.Popen(
            [sys.executable, *SWIFT, "rlhf", *as_argv(flags)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for_steps(process, output, 1)
        judge.stop()
        wait_for_steps(process, output, 2)
        judge.start()
        process.wait(400)
        log.seek(0)
        assert process.returncode == 0, log.read()[-4000:]
    first, away, back = training_log(output)
    assert first["thyme/judge_calls"] > 0
    assert first["thyme/judge_failed"] == 0
    assert away["thyme/judge_failed"] == away["thyme/judge_calls"] > 0
    assert away["thyme/rewards_unscored"] > 0
    assert back["thyme/judge_calls"] > back["thyme/judge_failed"]
    assert all(step["rewards/FmtORM/mean"] > 0 for step in (first, away, back))
    check_that_unscored_rewards_move_nothing(output)


def check_that_unscored_rewards_move_nothing(output: Path) -> None:
    """In the step without a judge only the rules' rewards make the advantages."""
    (path,) = output.glob("**/completions.jsonl")
    tables: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    table = next(t for t in tables if t["step"][0] == "2")
    scored = [name for name in table if name.endswith(("ORM", "PRM")) and not _missing(table[name])]
    assert {"FmtORM", "CodeORM"} <= set(scored)
    assert "VqaPRM" not in scored
    for start in range(0, len(table["advantages"]), 4):
        group = range(start, start + 4)
        totals = [sum(_number(table[name][i]) for name in scored) for i in group]
        mean = sum(totals) / 4
        for i, total in zip(group, totals, strict=True):
            advantage = table["advantages"][i]
            if abs(total - mean) < 1e-6:
                assert abs(advantage) < 1e-3
            else:
                assert (advantage > 0) == (total > mean)


def _number(value: float | None) -> float:
    return 0.0 if value is None or math.isnan(value) else value


def _missing(column: list[float | None]) -> bool:
    return all(value is None or math.isnan(value) for value in column)
