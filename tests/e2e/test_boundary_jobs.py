"""A real GRPO job whose scripted model ends its tags inside tokens of Qwen's vocabulary."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.sampling.boundary_scripts import PUNCTUAL, SCRIPTS, prompt_of

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, swift, training_log

FLAGS = {
    "template": "qwen2_5_vl",
    "max_pixels": 12544,
    "stop_words": ["<code>"],
    "reward_funcs": ["fmt_orm"],
    "overlong_filter": True,
    "rollout_importance_sampling_mode": "token_truncate",
    "vllm_engine_kwargs": json.dumps(
        {"logits_processors": ["tests.sampling.boundary_logits:BoundaryLogits"]}
    ),
}


@pytest.mark.slow
@pytest.mark.ci
def test_the_trainer_takes_turns_that_end_inside_tokens(
    real_vocabulary: Path, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()]
    carries_more = [n for n in range(PUNCTUAL) if SCRIPTS[n].tail[1:].strip()]
    for row, number in zip(rows, carries_more, strict=False):
        row["messages"][-1]["content"] += prompt_of(number)
    (tmp_path / "rl.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows[: len(carries_more)])
    )
    flags = grpo_flags(tmp_path, tmp_path / "run", steps=1) | FLAGS
    argv = as_argv(flags | {"model": str(real_vocabulary)})
    run = swift("rlhf", *argv, *VLLM_FLAGS, PYTHONPATH=str(ROOT))
    assert run.returncode == 0, run.stderr[-4000:]
    (record,) = training_log(tmp_path / "run")
    assert record["thyme/tool_use_rate"] == record["thyme/end/answer"] == 1
    assert record["thyme/boundary_repairs"] == 2
    assert record["rewards/FmtORM/mean"] == 0.5
    # The trainer compares the engine's log-probabilities with its own, one for each trained id.
    assert "rollout_correction/kl" in record
