"""Builders for the tests of the rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from swift_thyme.core.samples import Sample
from swift_thyme.rewards.reward_settings import JudgeSettings, RewardSettings
from swift_thyme.rewards.scoring import RewardScorer


def completion(answer: str, reasoning: str = "It is what it is.") -> str:
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


def make_sample(answer: str = "grey", reference: str = "gray", **fields: Any) -> Sample:
    fields.setdefault("question", "What colour is it?")
    return Sample(completion=completion(answer), references=(reference,), **fields)


def make_scorer(urls: Sequence[str] = (), **limits: Any) -> RewardScorer:
    """Return a scorer whose judge gives up soon."""
    limits = {
        "connect_timeout_s": 1.0,
        "read_timeout_s": 2.0,
        "step_timeout_s": 20.0,
        "outage_s": 0.6,
        **limits,
    }
    return RewardScorer(RewardSettings(judge=JudgeSettings(urls=tuple(urls), **limits)))


def answer_scores(scorer: RewardScorer, samples: Sequence[Sample]) -> list[float | None]:
    """Score answers as one training step does, under an event loop of its own."""

    async def step() -> list[float | None]:
        async with scorer.step() as opened:
            return list(await asyncio.gather(*(opened.answer(sample) for sample in samples)))

    return asyncio.run(step())
