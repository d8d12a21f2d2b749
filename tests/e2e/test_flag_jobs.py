"""Real GRPO jobs with many flags of the flag table at once; what they train on is what was sampled.

The flags of one job do not act on each other, so one job stands for a test of each of them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, swift, training_log

pytestmark = [pytest.mark.slow, pytest.mark.ci]

CAPTURE = "tests/e2e/capture_plugin.py"
TRANSFORMERS: dict[str, Any] = {
    # All completions score 0, so every group is thrown away and another batch is sampled.
    "reward_funcs": ["soft_overlong"],
    "soft_cache_length": 50,
    "soft_max_length": 5000,
    "dynamic_sample": True,
    "max_resample_times": 1,
    "num_iterations": 2,
    "loss_type": "dapo",
    "advantage_estimator": "rloo",
    "beta": 0.04,
    "kl_in_reward": True,
    "log_entropy": True,
    "top_entropy_quantile": 0.5,
    "importance_sampling_level": "sequence",
    "truncation_strategy": "delete",
    "completion_length_limit_scope": "total",
    "sync_ref_model": True,
    "ref_model_sync_steps": 1,
}
VLLM: dict[str, Any] = {
    "tuner_type": "lora",
    "vllm_enable_prefix_caching": False,
    "vllm_max_num_seqs": 4,
    "rollout_importance_sampling_mode": "token_mask",
    "log_rollout_offpolicy_metrics": True,
    "loss_type": "cispo",
    "epsilon_high": 5.0,
    "advantage_estimator": "reinforce_plus_plus",
    "importance_sampling_level": "sequence_token",
    "completion_length_limit_scope": "total",
    "max_completion_length": 400,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 2,
    "num_generations_eval": 2,
    "per_device_eval_batch_size": 4,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "chord_sft_per_device_train_batch_size": 2,
    "chord_mu_warmup_steps": 0,
    "chord_mu_decay_steps": 10,
    "chord_mu_peak": 0.5,
    "chord_mu_valley": 0.1,
}


class Job(NamedTuple):
    """A job that ran."""

    records: list[dict[str, Any]]
    """What ``capture_plugin.py`` wrote of each sample that was trained on."""
    steps: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    """All of ``logging.jsonl``."""


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def job(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_data: Path
) -> Job:
    folder = tmp_path_factory.mktemp(f"flags_{request.param}")
    rows = [json.loads(line) for line in (tiny_data / "rl.jsonl").read_text().splitlines()]
    if request.param == "transformers":
        # Prompts that are longer than --max_length.
        for row in rows[::2]:
            row["messages"][-1]["content"] += " and more" * 1024
    (folder / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output, capture = folder / "run", folder / "capture"
    flags = grpo_flags(folder, output, steps=2, plugins=(CAPTURE,))
    if request.param == "vllm":
        sets = {
            "val_dataset": tiny_data / "eval.jsonl",
            "chord_sft_dataset": tiny_data / "sft.jsonl",
        }
        argv = [*as_argv(flags | VLLM | sets), *VLLM_FLAGS]
    else:
        argv = as_argv(flags | TRANSFORMERS | {"teacher_model": flags["model"]})
    run = swift("rlhf", *argv, THYME_CAPTURE=str(capture))
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    (log,) = output.glob("**/logging.jsonl")
    return Job(
        [json.loads(line) for line in Path(f"{capture}.0").read_text().splitlines()],
        training_log(output),
        [json.loads(line) for line in log.read_text().splitlines()],
    )


def flat(nested: list[list[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]


def test_what_is_trained_on_is_what_was_sampled(job: Job) -> None:
    assert any(record["infos"]["thyme_images"] for record in job.records)
    for record in job.records:
        ids, mask = flat(record["response_token_ids"]), flat(record["response_loss_mask"])
        trained = [i for i, m in zip(ids, mask, strict=True) if m]
        assert trained == flat([turn["token_ids"] for turn in record["turns"]])[: len(trained)]
        assert (
            len(trained) == record["infos"]["thyme_sampled_tokens"] == len(record["trainer_logps"])
        )


def test_rows_that_are_too_long_are_replaced(job: Job) -> None:
    assert all(record["infos"]["thyme_sampled_tokens"] > 0 for record in job.records)


def test_dynamic_sampling_counts_dropped_trajectories_too(job: Job) -> None:
    if "teacher_kl" not in job.steps[0]:
        pytest.skip("the other job")
    first, second = (line for line in job.lines if "loss" in line)
    assert len(job.records) == 8
    assert first["thyme/trajectories"] == 16
    # The second step trains on the first one's rollout again.
    assert "thyme/trajectories" not in second
    assert first["entropy/threshold"] >= 0
    assert first["rewards/SoftOverlong/mean"] == 0


def test_evaluations_and_corrections_are_logged(job: Job) -> None:
    if "teacher_kl" in job.steps[0]:
        pytest.skip("the other job")
    assert all(step["thyme/trajectories"] == 16 for step in job.steps)
    assert all("rollout_correction/is_weight_mean" in step for step in job.steps)
    assert any(line.get("eval_thyme/trajectories") for line in job.lines)
