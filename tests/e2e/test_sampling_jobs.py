"""Real GRPO jobs through the ``swift`` command on a model whose logits push one token."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, python_program, run_program
from tests.sampling.scripts import script_of

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, swift, training_log

RECIPE = {
    "stop_words": ["<code>"],
    "top_k": 50,
    "top_p": 0.9,
    "repetition_penalty": 1.05,
    "overlong_filter": True,
    "rollout_importance_sampling_mode": "token_truncate",
    "max_completion_length": 600,
    "vllm_engine_kwargs": '{"logits_processors": ["tests.sampling.scripted:NamedScript"]}',
}
"""What of the published recipe touches sampling, and the correction that reads its log-probs."""


@pytest.fixture(scope="module")
def pushed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that would write ``<|image_pad|>`` several times in each answer."""
    folder = tmp_path_factory.mktemp("pushed")
    argv = ("-m", "tests.e2e.push_token", "<|image_pad|>", "20", str(folder))
    run = run_program(python_program(*argv))
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set, with a prompt that makes the engine say a loop in every second row."""
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()]
    for row in rows[::2]:
        row["messages"][-1]["content"] += script_of("one")
    folder = tmp_path_factory.mktemp("loops")
    (folder / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pushed_job(model: Path, data: Path, output: Path, *plugins: str) -> list[str]:
    flags: dict[str, Any] = grpo_flags(data, output, steps=2, plugins=plugins)
    return [*as_argv(flags | RECIPE | {"model": str(model)}), *VLLM_FLAGS]


@pytest.mark.slow
def test_a_model_that_is_pushed_to_write_placeholders_trains_and_loops_are_truncated(
    pushed_model: Path, tmp_path: Path, data: Path
) -> None:
    job = swift(
        "rlhf",
        *pushed_job(pushed_model, data, tmp_path / "run"),
        THYME_TRAIN_CODE_TOKENS="false",
        PYTHONPATH=str(ROOT),
    )
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    steps = training_log(tmp_path / "run")
    assert len(steps) == 2
    assert sum(step["thyme/images_total"] for step in steps) >= 1
    looped = [step.get("thyme/end/repetition", 0) for step in steps]
    assert sum(looped) > 0
    # ms-swift's share of truncated completions: what --overlong_filter leaves out.
    assert [step["completions/clipped_ratio"] for step in steps] == looped
    # Present only where each trained token had a log-probability.
    assert all(0 < step["rollout_correction/is_weight_mean"] < 2 for step in steps)


@pytest.mark.slow
def test_without_the_guard_the_same_job_fails(
    pushed_model: Path, tmp_path: Path, data: Path
) -> None:
    plugin = "tests/e2e/no_guard_plugin.py"
    argv = pushed_job(pushed_model, data, tmp_path / "run", plugin)
    job = swift("rlhf", *argv, PYTHONPATH=str(ROOT))
    assert job.returncode != 0
    # Where the count is noticed depends on the turn: encoding the next one, or the training batch.
    noticed = ("image placeholders, but", "Number of elements of source < number of ones in mask")
    assert any(message in job.stderr for message in noticed), job.stderr[-4000:]
