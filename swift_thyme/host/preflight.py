"""Looks at a GRPO job before anything is loaded: do its numbers fit together?

:mod:`swift_thyme.host.flag_check` knows flags that cannot be used. This module computes: tokens of
the largest picture against the limits, samples against generations, learning rate against tuner,
images against limits, and memory, roughly. What certainly fails is an error; the rest is a warning.
``--O3 true`` logs it, and ``thyme doctor --job`` prints it.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.finding import Finding, State
from swift_thyme.host.dataset_look import DatasetLook, look_at_dataset
from swift_thyme.host.gpu_memory import card_gib, memory_notes
from swift_thyme.host.job_plan import JobPlan, plan_of
from swift_thyme.host.model_on_disk import ModelFacts, look_at_model, tokens_of

__all__ = ["log_preflight", "preflight"]

_CHARS_PER_TOKEN = 4
_ROW_FILES = (".jsonl", ".json", ".csv", ".parquet")
_FULL_RATE, _LORA_RATE = 2e-5, 1e-5
"""Above the first one full training is unusually fast, below the second one LoRA hardly moves."""
_SMALL_MODEL = 100_000_000
"""Parameters below which such rates are usual."""
_DATASET, _GROUPS = "dataset", "groups"
_HOST_STOPS = (_DATASET, _GROUPS)
"""Subjects of which ms-swift stops a broken job itself when it starts, with an error of its own."""


def preflight(plan: JobPlan) -> list[Finding]:
    """Return everything that can be said about a job before it starts."""
    facts, look = look_at_model(plan.model), look_at_dataset(plan.dataset)
    return [
        *_packages(plan),
        *_files(plan),
        *_samples(plan),
        *_rate(plan, facts),
        *_pictures(plan, facts, look),
        *_images(plan, look),
        *(Finding("memory", State.LOOK if a else State.OK, t, a) for t, a in _memory(plan, facts)),
    ]


def log_preflight(arguments: Any) -> None:
    """Log the preflight of a job and stop one that certainly fails.

    Args:
        arguments: ms-swift's argument object.

    Raises:
        SettingsError: One line that names each flag, and what to do.
    """
    read = Reader()
    notes = preflight(plan_of(arguments, read.given("MAX_PIXELS"), read.count("WORLD_SIZE")))
    failing = [n.line for n in notes if n.state is State.BROKEN and n.subject not in _HOST_STOPS]
    if failing:
        raise SettingsError(". ".join(failing))
    from swift.utils import get_logger

    # ms-swift's own logger: that is the log of the job.
    log = get_logger()
    for note in notes:
        say = log.info if note.state is State.OK else log.warning
        say(f"preflight: {note.line}")


def _packages(plan: JobPlan) -> Iterator[Finding]:
    if plan.deepspeed and importlib.util.find_spec("deepspeed") is None:
        text, advice = f"--deepspeed {plan.deepspeed}: not installed", "pip install 'deepspeed'"
        yield Finding("packages", State.BROKEN, text, advice)
    flash = (plan.attn_impl or "").startswith("flash")
    if flash and importlib.util.find_spec("flash_attn") is None:
        text = f"--attn_impl {plan.attn_impl}: the package flash-attn is not installed"
        yield Finding("packages", State.LOOK, text, "install it, or set --attn_impl sdpa")


def _files(plan: JobPlan) -> Iterator[Finding]:
    """Name files of rows that are not there; ms-swift would ask a hub for them by that name."""
    for name in plan.dataset:
        path = Path(name.partition("#")[0])
        if path.suffix in _ROW_FILES and not path.exists() and not Path(name).exists():
            text, advice = f"--dataset {name}: no such file", "check the path"
            yield Finding(_DATASET, State.BROKEN, text, advice)


def _samples(plan: JobPlan) -> Iterator[Finding]:
    samples, group = plan.samples_per_rollout, plan.num_generations
    text = f"{samples} samples a rollout ({_product(plan)}), --num_generations {group}"
    if group > 1 and samples % group == 0:
        yield Finding(_GROUPS, State.OK, f"{text}: {samples // group} prompts")
    elif group < 2:
        advice = "ms-swift takes one without a teacher model for an error: set --num_generations 4"
        yield Finding(_GROUPS, State.LOOK, text, advice)
    elif plan.sequence_parallel_size == 1:
        divisors = [n for n in range(2, samples + 1) if samples % n == 0]
        able = f", or --num_generations to one of {divisors[:8]}" if divisors else ""
        yield Finding(
            _GROUPS,
            State.BROKEN,
            f"{text}: no whole number of prompts",
            f"set --gradient_accumulation_steps to {_fitting_steps(plan)}{able}",
        )


def _product(plan: JobPlan) -> str:
    if plan.generation_batch_size:
        return "--generation_batch_size"
    passes = plan.samples_per_rollout // (plan.per_device_train_batch_size * plan.processes)
    name = "steps per generation" if plan.steps_per_generation else "accumulation"
    return (
        f"{plan.processes} processes x batch {plan.per_device_train_batch_size} x {name} {passes}"
    )


def _fitting_steps(plan: JobPlan) -> int:
    one_pass = plan.per_device_train_batch_size * plan.processes
    unit = plan.num_generations // math.gcd(one_pass, plan.num_generations)
    return unit * max(1, round(plan.gradient_accumulation_steps / unit))


def _rate(plan: JobPlan, facts: ModelFacts) -> Iterator[Finding]:
    rate = plan.learning_rate
    if rate is None or (facts.parameters or _SMALL_MODEL) < _SMALL_MODEL:
        return
    text = f"--tuner_type {plan.tuner_type} with --learning_rate {rate:g}"
    if plan.tuner_type == "full" and rate > _FULL_RATE:
        advice = "that is a rate for LoRA: set --learning_rate 5e-7, or --tuner_type lora"
        yield Finding("learning rate", State.LOOK, text, advice)
    elif plan.tuner_type != "full" and rate < _LORA_RATE:
        advice = (
            "that is a rate for training all weights: set --tuner_type full (ms-swift's default is "
            "lora), or --learning_rate 1e-4"
        )
        yield Finding("learning rate", State.LOOK, text, advice)
    else:
        yield Finding("learning rate", State.OK, text)


def _pictures(plan: JobPlan, facts: ModelFacts, look: DatasetLook | None) -> Iterator[Finding]:
    if look is None or not look.sizes:
        yield Finding("pictures", State.OK, "not looked at: --dataset names no local .jsonl file")
        return
    if not facts.counts_pixels:
        text = "not counted: how many tokens one takes is a matter of the family's processor"
        yield Finding("pictures", State.OK, text)
        return
    counts = {size: tokens_of(size, facts, plan.max_pixels) for size in set(look.sizes)}
    largest = max(counts, key=lambda size: counts[size])
    tokens = counts[largest]
    words = look.longest_text // _CHARS_PER_TOKEN + _system_tokens(plan)
    limit = plan.longest
    seen = f"largest of {len(look.sizes)} pictures {largest[0]}x{largest[1]}: {tokens} tokens"
    if limit is None:
        yield Finding("pictures", State.OK, f"{seen}; no --max_length limits them")
        return
    room = limit - tokens - words - plan.max_completion_length
    text = (
        f"{seen}, about {words} of text and --max_completion_length {plan.max_completion_length} "
        f"leave {room} of {limit} for returned pictures"
    )
    smallest = min(counts.values())
    pixels = _pixels_that_fit(limit - words - plan.max_completion_length, facts)
    advice = f"set MAX_PIXELS={pixels}" if pixels else "lower --max_completion_length"
    advice += ", or raise --max_length and --vllm_max_model_len"
    if smallest >= limit:
        text = f"{seen}, and the smallest {smallest}: no prompt fits into {limit}"
        yield Finding("pictures", State.BROKEN, text, advice)
    elif room < tokens:
        yield Finding("pictures", State.LOOK, text, advice)
    else:
        yield Finding("pictures", State.OK, text)


def _system_tokens(plan: JobPlan) -> int:
    system = plan.system or ""
    if system.endswith(".txt") and os.path.isfile(system):
        return os.path.getsize(system) // _CHARS_PER_TOKEN
    return len(system) // _CHARS_PER_TOKEN


def _pixels_that_fit(room: int, facts: ModelFacts) -> int | None:
    """Return a limit with which a picture and a returned one of the same size find room."""
    tokens = room // 2
    return tokens * facts.factor_px**2 if tokens >= 64 else None


def _images(plan: JobPlan, look: DatasetLook | None) -> Iterator[Finding]:
    if plan.vllm_mode == "server":
        return  # the limit is the server's
    flag = f"--vllm_limit_mm_per_prompt image {plan.most_images}"
    rows = look.most_images if look is not None else 1
    advice = f"""set --vllm_limit_mm_per_prompt '{{"image": {rows + 5}, "video": 0}}'"""
    text = f"rows have up to {rows} images, and {flag} counts them with the returned ones"
    if rows > plan.most_images and plan.use_vllm:
        yield Finding("images", State.BROKEN, text, advice)
    elif rows >= plan.most_images:
        yield Finding("images", State.LOOK, f"{text}: code cannot return one", advice)
    else:
        yield Finding("images", State.OK, text)


def _memory(plan: JobPlan, facts: ModelFacts) -> list[tuple[str, str]]:
    return memory_notes(plan, facts, card_gib())
