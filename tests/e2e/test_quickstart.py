"""The quickstart as a newcomer runs it: few lines, a trained model, and a remedy where it fails."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_program

QUICKSTART = ["bash", str(ROOT / "scripts" / "quickstart.sh")]


@pytest.mark.ci
def test_it_shows_the_model_before_and_after_and_keeps_it(tmp_path: Path) -> None:
    # A response prefix, as thinking templates have one, changes nothing about the format.
    flags = ["--max_steps", "1", "--response_prefix", "<think>"]
    # Fewer held-out questions than in a whole run: the gain of one step is not looked at.
    flags += ["--val_dataset", f"{tmp_path}/data/eval.jsonl#48"]
    flags += ["--per_device_eval_batch_size", "48"]
    run = run_program([*QUICKSTART, *flags], timeout_s=580, QUICKSTART_DIR=str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) <= 100
    assert sum("2 turns, 1 of 1 code blocks ran, 1 images returned" in x for x in lines) == 2
    (log,) = tmp_path.glob("run/*/logging.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    held_out = [r["eval_rewards/FmtORM/mean"] for r in records if "eval_reward" in r]
    assert len(held_out) == 2 and min(held_out) > 0.4
    (model,) = tmp_path.glob("run/*/checkpoint-1")
    assert (model / "model.safetensors").is_file()
    assert any(f"thyme ask --model {model}" in line for line in lines)
    assert (tmp_path / "trajectories.html").is_file()


@pytest.mark.slow
def test_a_flag_that_is_refused_ends_it_with_the_reason(tmp_path: Path) -> None:
    flags = ["--learning_rate", "quick"]
    run = run_program([*QUICKSTART, *flags], timeout_s=300, QUICKSTART_DIR=str(tmp_path))
    assert run.returncode == 1
    assert "quick" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: `swift rlhf")
    assert "quickstart.log" in run.stderr
    assert len(run.stderr.splitlines()) < 30
