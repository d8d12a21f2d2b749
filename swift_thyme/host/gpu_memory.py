"""Roughly, how much memory of a GPU a GRPO job takes: weights, gradients, optimizer, cache.

Rules of thumb for mixed precision with Adam, in bytes per parameter, are those of
:mod:`swift_thyme.plan.memory`. ZeRO divides them by the processes: stage 1 the optimizer, stage 2
the gradients too, stage 3 all. Activations come on top; `thyme plan` computes them.
"""

from __future__ import annotations

import shutil
import subprocess

from swift_thyme.host.job_plan import JobPlan
from swift_thyme.host.model_on_disk import ModelFacts
from swift_thyme.plan.memory import (
    ADAM_BYTES,
    GIB,
    GRADIENT_BYTES,
    LORA_SHARE,
    WEIGHT_BYTES,
)

__all__ = ["card_gib", "memory_notes", "training_gib"]

_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def card_gib() -> float | None:
    """Return the memory of the smallest GPU of this host; None without one."""
    if shutil.which(_QUERY[0]) is None:
        return None
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True)
        return min(float(line) / 1024 for line in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def training_gib(plan: JobPlan, parameters: int) -> float:
    """Return what a process keeps for training, activations not included, in GiB."""
    shares = plan.processes
    trained = parameters if plan.tuner_type == "full" else parameters * LORA_SHARE
    weights = float(parameters * WEIGHT_BYTES)
    if plan.tuner_type == "full" and plan.beta != 0:
        weights *= 2  # the reference model
    gradients, optimizer = trained * GRADIENT_BYTES, trained * ADAM_BYTES
    stage = plan.zero_stage
    if stage >= 1:
        optimizer /= shares
    if stage >= 2:
        gradients /= shares
    if stage >= 3:
        weights /= shares
    return (weights + gradients + optimizer) / GIB


def memory_notes(plan: JobPlan, facts: ModelFacts, card: float | None) -> list[tuple[str, str]]:
    """Return what can be said: a text, and advice where it does not fit.

    Args:
        plan: The job.
        facts: The model's.
        card: Memory of a GPU in GiB, None where there is none here.
    """
    if facts.parameters is None:
        return [("not computed: the model is no folder here", "")]
    training = training_gib(plan, facts.parameters)
    text = f"training takes about {training:.1f} GiB per process, activations not included"
    colocated = plan.use_vllm and plan.vllm_mode != "server"
    if not colocated or plan.use_cpu or card is None:
        known = card is not None and not plan.use_cpu
        fits = not known or training < (card or 0)
        return [(text, "" if fits else _advice(plan))]
    engine = plan.vllm_gpu_memory_utilization * card
    copy = facts.parameters * WEIGHT_BYTES / plan.vllm_tensor_parallel_size / GIB
    notes = [(f"{text}, vLLM {engine:.1f} of {card:.0f} GiB", "")]
    sleeps = plan.sleep_level > 0
    if (training if sleeps else training + engine) > card:
        notes = [(notes[0][0], _advice(plan))]
    if facts.kv_bytes_per_token and plan.longest:
        cache = facts.kv_bytes_per_token * plan.longest / plan.vllm_tensor_parallel_size / GIB
        if copy + cache > engine:
            notes.append(
                (
                    f"vLLM needs {copy:.1f} GiB for weights and {cache:.1f} for one trajectory",
                    "raise --vllm_gpu_memory_utilization, or lower --vllm_max_model_len",
                )
            )
    return notes


def _advice(plan: JobPlan) -> str:
    ways = ["--deepspeed zero3"] if plan.zero_stage < 3 and plan.processes > 1 else []
    if plan.use_vllm and plan.vllm_mode != "server":
        ways.append("--sleep_level 1 with --offload_optimizer true")
        ways.append("a lower --vllm_gpu_memory_utilization")
    if plan.tuner_type == "full":
        ways.append("--tuner_type lora")
    return f"use {', or '.join(ways or ['more GPUs'])}"
