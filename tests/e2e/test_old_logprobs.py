"""A sample that is used once needs no pass for old log-probabilities; its gradient is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from .jobs import as_argv, grpo_flags, swift

pytestmark = [pytest.mark.slow, pytest.mark.ci]

PLUGIN = "tests/e2e/old_logprobs_plugin.py"


@pytest.mark.parametrize(
    ("flags", "given", "passes"),
    [
        # Passes before the loss (the reference's) and in it.
        ({"beta": 0.04, "gradient_accumulation_steps": 2}, False, 2),
        ({"num_iterations": 2}, True, 2),
    ],
)
def test_old_logprobs_are_computed_where_a_sample_is_used_again_alone(
    tmp_path: Path, tiny_data: Path, flags: dict[str, Any], given: bool, passes: int
) -> None:
    losses = tmp_path / "losses.jsonl"
    arguments = grpo_flags(tiny_data, tmp_path / "run", steps=2, plugins=(PLUGIN,)) | flags
    arguments["gradient_checkpointing"] = False  # for gradients beside the job's own
    run = swift("rlhf", *as_argv(arguments), THYME_LOSSES=str(losses))
    assert run.returncode == 0, run.stderr[-3000:]
    records = [json.loads(line) for line in losses.read_text().splitlines()]
    assert len(records) == 2 * flags.get("gradient_accumulation_steps", 1)
    assert {record["given"] for record in records} == {given}
    # ms-swift prepares all batches of a step before the first loss.
    assert sum(r["passes"] for r in records[: len(records) // 2]) == passes * len(records) // 2
    if not given:
        for record in records:
            assert record["losses"][0] == pytest.approx(record["losses"][1], abs=1e-5)
            assert record["norm"] > 0 and record["apart"] < 1e-3 * record["norm"]
