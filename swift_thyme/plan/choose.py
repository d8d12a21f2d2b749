"""The first way to train a model that fits: from the fastest to the one that needs least memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from swift_thyme.core.errors import SettingsError
from swift_thyme.plan.memory import Estimate, Job, engine_needs_gib, estimate
from swift_thyme.plan.sizes import ModelSizes

__all__ = ["Choice", "Wish", "choose_rl", "choose_sft"]

FULL_CARD = 0.94
"""Share of a GPU that a plan fills at most."""
MOST_SHARE, SHARE_STEP = 0.85, 0.05
"""Of vLLM: the largest share of a GPU, and how shares go down."""
BATCHES = 16
"""Pieces in which weights go to vLLM where one would not fit."""
SAMPLES_PER_STEP, GENERATIONS = 40, 4
"""Of the recipe: trajectories of a step on all GPUs, and samples of a question."""
MOST_GPUS = 64
"""Up to which a message says how many would do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is given."""

    gpus: int
    card_gib: float
    length: int
    trained: int
    tuner: str | None = None
    """``full`` or ``lora``; None takes full training where it fits."""

    @property
    def tuners(self) -> tuple[bool, ...]:
        """Whether to train all weights, in the order in which it is tried."""
        return {None: (True, False), "full": (True,), "lora": (False,)}[self.tuner]


@dataclass(frozen=True, slots=True)
class Choice:
    """A job that fits, and its memory."""

    job: Job
    estimate: Estimate
    accumulation: int
    """``--gradient_accumulation_steps``."""


def choose_rl(wish: Wish, sizes: ModelSizes) -> Choice:
    """Return a job of GRPO with vLLM on the same GPUs.

    Args:
        wish: What is given.
        sizes: The model's.

    Raises:
        SettingsError: None fits; the line says how many GPUs would do.
    """
    found = _rl(wish, sizes)
    if found is None:
        raise _too_large("GRPO", wish, sizes, _rl)
    return found


def choose_sft(wish: Wish, sizes: ModelSizes) -> Choice:
    """Return a job of supervised training.

    Args:
        wish: What is given.
        sizes: The model's.

    Raises:
        SettingsError: None fits; the line says how many GPUs would do.
    """
    found = _sft(wish, sizes)
    if found is None:
        raise _too_large("SFT", wish, sizes, _sft)
    return found


def _rl(wish: Wish, sizes: ModelSizes) -> Choice | None:
    for full in wish.tuners:
        for job in _ways(wish, sizes, full):
            needs = engine_needs_gib(job, sizes) / job.card_gib
            share = MOST_SHARE
            while share >= needs - 1e-9:
                filled = replace(job, share=round(share, 2))
                memory = estimate(filled, sizes)
                if memory.peak <= FULL_CARD * wish.card_gib:
                    return Choice(filled, memory, _accumulation(wish.gpus))
                share -= SHARE_STEP
    return None


def _ways(wish: Wish, sizes: ModelSizes, full: bool) -> Iterator[Job]:
    """Yield jobs from the fastest to the one that needs least memory, vLLM's share left open."""
    plain = Job(
        gpus=wish.gpus,
        card_gib=wish.card_gib,
        full=full,
        length=wish.length,
        trained=wish.trained,
    )
    stages = (3,) if full else (2, 3) if wish.gpus > 1 else (2,)
    spreads = [n for n in (1, 2, 4, 8) if wish.gpus % n == 0 and n <= max(sizes.heads, 1)]
    for offloads in (False, True):
        for spread in spreads:
            for sleeps in (True,) if offloads else (False, True):
                for stage in stages:
                    # Only ZeRO-3 gathers weights in order to send them.
                    for batches in (1, BATCHES) if stage == 3 and wish.gpus > 1 else (1,):
                        yield replace(
                            plain,
                            zero=stage,
                            tensor_parallel=spread,
                            sleeps=sleeps,
                            offloads=offloads,
                            batches=batches,
                        )


def _sft(wish: Wish, sizes: ModelSizes) -> Choice | None:
    for full in wish.tuners:
        for stage in (2, 3) if wish.gpus > 1 else (2,):
            job = Job(
                gpus=wish.gpus,
                card_gib=wish.card_gib,
                full=full,
                zero=stage,
                reference=False,
                length=wish.length,
                trained=wish.trained,
            )
            memory = estimate(job, sizes)
            if memory.peak <= FULL_CARD * wish.card_gib:
                return Choice(job, memory, max(128 // wish.gpus, 1))
    return None


def _accumulation(gpus: int) -> int:
    """Return passes per step: about the recipe's samples, and a multiple of the generations."""
    passes = max(SAMPLES_PER_STEP // gpus, 1)
    unit = GENERATIONS // math.gcd(gpus, GENERATIONS)
    return math.ceil(passes / unit) * unit


def _too_large(what: str, wish: Wish, sizes: ModelSizes, plan: object) -> SettingsError:
    assert callable(plan)
    more = next(
        (
            gpus
            for gpus in (2**power for power in range(1, 7))
            if wish.gpus < gpus <= MOST_GPUS and plan(replace(wish, gpus=gpus), sizes)
        ),
        None,
    )
    said = f" with --tuner {wish.tuner}" if wish.tuner else ""
    advice = f"--gpus {more} would do" if more else "larger GPUs are needed (--gpu-gib)"
    return SettingsError(
        f"{what} of {sizes.name} ({sizes.parameters / 1e9:.1f} B parameters){said} does not fit on "
        f"{wish.gpus} GPUs of {wish.card_gib:.0f} GiB; {advice}"
    )
