"""A sample that is used once needs no pass for old log-probabilities; its gradient is the same."""

import json
from pathlib import Path

import pytest

from .jobs import as_argv, grpo_flags, swift

pytestmark = [pytest.mark.slow, pytest.mark.ci]

PLUGIN = "tests/e2e/old_logprobs_plugin.py"
BATCHES = 2
"""Of one update."""


def test_the_gradient_without_the_pass_is_that_with_it(tmp_path: Path, tiny_data: Path) -> None:
    losses = tmp_path / "losses.jsonl"
    flags = grpo_flags(tiny_data, tmp_path / "run", plugins=(PLUGIN,)) | {
        "beta": 0.04,
        "gradient_accumulation_steps": BATCHES,
        "gradient_checkpointing": False,  # for gradients beside the job's own
    }
    run = swift("rlhf", *as_argv(flags), THYME_LOSSES=str(losses))
    assert run.returncode == 0, run.stderr[-3000:]
    records = [json.loads(line) for line in losses.read_text().splitlines()]
    assert [record["given"] for record in records] == [False] * BATCHES
    # The reference's passes, then those of the loss.
    assert sum(record["passes"] for record in records) == 2 * BATCHES
    for record in records:
        assert record["losses"][0] == pytest.approx(record["losses"][1], abs=1e-5)
        assert record["norm"] > 0 and record["apart"] < 1e-3 * record["norm"]
