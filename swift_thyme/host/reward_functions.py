"""Reward functions for ms-swift: columns of a batch in, one reward or None per completion out.

Nothing is decided here; see ``scoring`` for what is scored and ``missing`` for what becomes of a
None. The class names appear in ms-swift's metrics (``rewards/VqaORM/mean``).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from swift.rewards import ORM, AsyncORM, orms  # noqa: TID253 - this module is the adapter

from swift_thyme.core.samples import Sample, read_samples
from swift_thyme.core.summary import EndReason
from swift_thyme.host.missing_rewards import install_filling
from swift_thyme.rewards.format import follows_format
from swift_thyme.rewards.judge import Judge
from swift_thyme.rewards.reward_settings import RewardScale, RewardSettings
from swift_thyme.rewards.scoring import RewardScorer, RewardStep, executed_share

__all__ = [
    "FmtORM",
    "VqaORM",
    "CstORM",
    "CodeORM",
    "CodeLlmORM",
    "VqaPRM",
    "CodePRM",
    "drain_metrics",
    "judge_of",
    "shared_scorer",
    "add_reward_functions",
]

Rewards = list["float | None"]


@functools.cache
def shared_scorer() -> RewardScorer:
    """Return the scorer of this process, made from the environment when first asked for.

    ms-swift makes each reward function by itself and gives them nothing in common, yet they must
    share verdicts and what is known about the judge's servers.

    Raises:
        SettingsError: An environment variable cannot be used.
    """
    scorer = RewardScorer(RewardSettings.from_env())
    atexit.register(scorer.close)
    return scorer


def drain_metrics() -> dict[str, float]:
    """Return the counters of this process since the last call, by metric name.

    See :meth:`swift_thyme.rewards.metrics.RewardMetrics.drain` for the names; empty before the
    first reward was computed.
    """
    return shared_scorer().metrics.drain()


def judge_of(rewards: Sequence[Any]) -> Judge | None:
    """Return the judge that rewards of a trainer ask; None where none of them asks one.

    Args:
        rewards: The trainer's reward functions, of whatever origin.
    """
    asking = (reward for reward in rewards if isinstance(reward, _AsyncReward))
    return next((reward.scorer.judge for reward in asking if reward.scorer.judge), None)


class _Scored:
    """What all rewards of this package have in common."""

    fills_missing = True
    """Tells ``missing`` that a gap in this reward is a missing verdict."""
    scorer: RewardScorer

    def _set_up(self, scorer: RewardScorer | None) -> None:
        self.scorer = scorer if scorer is not None else shared_scorer()
        if not install_filling(self.scorer.metrics) and self.scorer.judge is not None:
            self.scorer.say_once(
                "this is not ms-swift's own GRPO trainer: rewards that the judge fails to give "
                "count as zero here"
            )

    def _finish(
        self, samples: Sequence[Sample], scores: Sequence[float | None], scale: RewardScale
    ) -> Rewards:
        # Where the sandbox itself failed, the trajectory says nothing about the model.
        scores = [
            None if _has_failed(sample) else score
            for sample, score in zip(samples, scores, strict=True)
        ]
        unscored = sum(score is None for score in scores)
        self.scorer.metrics.count("rewards_unscored", unscored)
        return [None if score is None else scale.apply(score) for score in scores]


def _has_failed(sample: Sample) -> bool:
    rollout = sample.rollout
    return rollout is not None and rollout.end_reason is EndReason.SANDBOX_FAILURE


class _SyncReward(_Scored, ORM):  # type: ignore[misc] # ms-swift has no type information
    def __init__(self, args: Any = None, scorer: RewardScorer | None = None, **kwargs: Any) -> None:
        super().__init__(args, **kwargs)
        self._set_up(scorer)


class _AsyncReward(_Scored, AsyncORM):  # type: ignore[misc] # as above
    def __init__(self, args: Any = None, scorer: RewardScorer | None = None, **kwargs: Any) -> None:
        super().__init__(args, **kwargs)
        self._set_up(scorer)

    async def _score(
        self,
        completions: Sequence[Any],
        columns: dict[str, Any],
        score: Callable[[RewardStep, Sample], Awaitable[float | None]],
        scale: RewardScale,
    ) -> Rewards:
        samples = read_samples(completions, columns)
        async with self.scorer.step() as step:
            scores = await asyncio.gather(*(score(step, sample) for sample in samples))
        return self._finish(samples, scores, scale)


class FmtORM(_SyncReward):
    """``fmt_orm``: whether the completion follows the format grammar."""

    def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``FMT_WEIGHT`` for well-formed completions, else 0 (-weight with FMT_NORM=1)."""
        samples = read_samples(completions, columns)
        canonical = self.scorer.settings.thinking.canonical
        scores = [float(follows_format(canonical(sample.completion))) for sample in samples]
        return self._finish(samples, scores, self.scorer.settings.format)


class VqaORM(_AsyncReward):
    """``vqa_orm``: whether the answer is right, by rule or by judge."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``VQA_WEIGHT`` for right answers, 0 for wrong ones (-weight with VQA_NORM=1)."""
        scale = self.scorer.settings.answer
        return await self._score(completions, columns, RewardStep.answer, scale)


class CstORM(_AsyncReward):
    """``cst_orm``: whether the reasoning leads to the answer, where the answer is right."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``CST_WEIGHT`` where it does, else 0 (-weight with CST_NORM=1)."""
        scale = self.scorer.settings.consistency
        return await self._score(completions, columns, RewardStep.consistency, scale)


class CodeORM(_SyncReward):
    """``code_orm``: the share of the code blocks that ran without an error."""

    def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``CODE_WEIGHT`` times that share."""
        samples = read_samples(completions, columns)
        scores = [executed_share(sample) for sample in samples]
        if None in scores:
            self.scorer.say_once(
                "code_orm: the scheduler records no `thyme_statuses`, so completions with code "
                "have no code reward"
            )
        return self._finish(samples, scores, self.scorer.settings.code)


class CodeLlmORM(_AsyncReward):
    """``code_orm_llm``: whether the code is right and serves the question, by judge."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``CODE_WEIGHT`` or 0; 0 without code."""
        return await self._score(completions, columns, RewardStep.code, self.scorer.settings.code)


class VqaPRM(_AsyncReward):
    """``vqa_prm``: how sound the steps of the reasoning are, by judge."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``VQA_PRM_WEIGHT`` times a score in [0, 1]."""
        scale = self.scorer.settings.answer_process
        return await self._score(completions, columns, RewardStep.answer_process, scale)


class CodePRM(_AsyncReward):
    """``code_prm``: how useful the code's images are, by a judge that sees them."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> Rewards:
        """Return ``CODE_PRM_WEIGHT`` times a score in [0, 1]; 0 without code."""
        scale = self.scorer.settings.code_process
        return await self._score(completions, columns, RewardStep.code_process, scale)


def add_reward_functions() -> None:
    """Make the rewards known to ms-swift under their published names."""
    orms.update(
        fmt_orm=FmtORM,
        vqa_orm=VqaORM,
        cst_orm=CstORM,
        code_orm=CodeORM,
        code_orm_llm=CodeLlmORM,
        vqa_prm=VqaPRM,
        code_prm=CodePRM,
    )
