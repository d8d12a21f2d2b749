"""The command lines of a plan: the recipe's scripts with the flags that differ."""

from __future__ import annotations

from swift_thyme.plan.choose import Choice

__all__ = ["rl_lines", "sft_lines"]

LORA_RATE = "1e-5"
"""Adapters hardly move at the rates of full training."""


def rl_lines(choice: Choice, model: str, max_pixels: int) -> str:
    """Return the call of ``rl.sh``.

    Args:
        choice: The job.
        model: Name or folder.
        max_pixels: Of a picture after resizing.
    """
    job = choice.job
    flags = [
        f"--vllm_gpu_memory_utilization {job.share:g}",
        f"--gradient_accumulation_steps {choice.accumulation}",
        f"--max_length {job.length} --vllm_max_model_len {job.length}",
        f"--max_completion_length {job.trained}",
    ]
    if job.zero != 3:
        flags.append(f"--deepspeed zero{job.zero}")
    if not job.full:
        flags.append(f"--tuner_type lora --learning_rate {LORA_RATE}")
    if job.tensor_parallel > 1:
        flags.append(f"--vllm_tensor_parallel_size {job.tensor_parallel}")
    if job.batches > 1:
        flags.append(f"--move_model_batches {job.batches}")
    if job.sleeps:
        flags.append("--sleep_level 1")
    if job.offloads:
        flags.append("--offload_optimizer true --offload_model true")
    return _call("rl.sh", flags, job.gpus, f"MODEL={model} DATASET=rl.jsonl", max_pixels)


def sft_lines(choice: Choice, model: str, max_pixels: int) -> str:
    """Return the call of ``sft_stage1.sh``; ``sft_stage2.sh`` takes the same flags.

    Args:
        choice: The job.
        model: Name or folder.
        max_pixels: Of a picture after resizing.
    """
    job = choice.job
    flags = [
        f"--gradient_accumulation_steps {choice.accumulation}",
        f"--max_length {job.length}",
    ]
    if job.zero != 2:
        flags.append(f"--deepspeed zero{job.zero}")
    if not job.full:
        flags.append("--tuner_type lora --learning_rate 1e-4")
    return _call("sft_stage1.sh", flags, job.gpus, f"MODEL={model} DATASET=sft.jsonl", max_pixels)


def _call(script: str, flags: list[str], gpus: int, names: str, max_pixels: int) -> str:
    set_ = f"{names} SAVE_PATH=output MAX_PIXELS={max_pixels} NPROC_PER_NODE={min(gpus, 8)}"
    return f"{set_} \\\n  sh {script} " + " \\\n    ".join(flags)
