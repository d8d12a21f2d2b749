"""What the steps of a run spent their time on, and what makes the largest part smaller."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["describe_time"]

_PREFIX = "thyme/time/"
_STEP = f"{_PREFIX}step"
_ADVICE = {
    "generation": "a lower --max_completion_length cuts the longest trajectories; with vLLM in "
    "colocate mode none waits for another, and THYME_ROLLOUT_DEADLINE_S ends the last ones",
    "sandbox": "raise THYME_SANDBOX_WORKERS, or run code on other hosts (THYME_SANDBOX_URL)",
    "weights": "a larger --move_model_batches sends fewer pieces; LoRA with --vllm_enable_lora "
    "true sends adapters alone",
    "rewards": "give the judge more servers (THYME_JUDGE_URLS)",
    "encoding": "raise THYME_PICTURES_MB, or lower MAX_PIXELS",
    "logprobs": "a larger --per_device_train_batch_size takes fewer passes; --beta 0 spares those "
    "of the reference model",
    "update": "a larger --per_device_train_batch_size takes fewer passes; ZeRO-2 gathers less than "
    "ZeRO-3",
    "rest": "processes wait for the slowest one, or load, log and save; a profile says which",
}
"""Phase to what helps where it is the largest."""


def describe_time(values: Mapping[str, float]) -> list[str]:
    """Say how the seconds of a step are shared out.

    Args:
        values: Metrics of training steps, their means.

    Returns:
        Two sentences; none where the run logged no times.
    """
    step = values.get(_STEP, 0.0)
    spent = {name: values[f"{_PREFIX}{name}"] for name in _ADVICE if f"{_PREFIX}{name}" in values}
    if step <= 0 or not spent:
        return []
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {seconds / step:.0%}" for name, seconds in ordered)
    largest = ordered[0][0]
    return [f"a step takes {step:.1f} s: {shares}", f"{largest}: {_ADVICE[largest]}"]
