"""Real GRPO jobs through the ``swift`` command on a model whose logits push one token."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import python_program, run_program

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, swift, training_log

RECIPE = {
    "stop_words": ["<code>"],
    "top_k": 50,
    "top_p": 0.9,
    "repetition_penalty": 1.05,
    "overlong_filter": True,
    "rollout_importance_sampling_mode": "token_truncate",
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


def free_port() -> str:
    """Return a port for torch's rendezvous, so that jobs beside this one do not matter."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def pushed_job(model: Path, data: Path, output: Path, *plugins: str) -> list[str]:
    flags: dict[str, Any] = grpo_flags(data, output, steps=2, plugins=plugins)
    return [*as_argv(flags | RECIPE | {"model": str(model)}), *VLLM_FLAGS]


@pytest.mark.slow
def test_a_model_that_is_pushed_to_write_placeholders_trains(
    pushed_model: Path, tmp_path: Path, tiny_data: Path
) -> None:
    job = swift(
        "rlhf",
        *pushed_job(pushed_model, tiny_data, tmp_path / "run"),
        THYME_TRAIN_CODE_TOKENS="false",
        MASTER_PORT=free_port(),
    )
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    steps = training_log(tmp_path / "run")
    assert len(steps) == 2
    assert all(step["thyme/images_total"] >= 1 for step in steps)
    # Present only where each trained token had a log-probability.
    assert all(0 < step["rollout_correction/is_weight_mean"] < 2 for step in steps)


@pytest.mark.slow
def test_without_the_guard_the_same_job_fails(
    pushed_model: Path, tmp_path: Path, tiny_data: Path
) -> None:
    plugin = "tests/e2e/no_guard_plugin.py"
    argv = pushed_job(pushed_model, tiny_data, tmp_path / "run", plugin)
    job = swift("rlhf", *argv, MASTER_PORT=free_port())
    assert job.returncode != 0
    assert "image placeholders" in job.stderr, job.stderr[-4000:]
