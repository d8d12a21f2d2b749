"""The scores behind the reward functions, in [0, 1], or None where no verdict could be had.

One :class:`RewardScorer` lives as long as the training process and holds only plain data (settings,
counters, the health of the judge's servers) and the maths process. Everything that belongs to an
event loop lives in one :class:`RewardStep`: ms-swift runs all asynchronous rewards of a step
together under a fresh loop, so the rewards that share a loop share the step, and a question that
two of them need answered is asked once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from swift_thyme.answers.maths import MathsChecker
from swift_thyme.answers.rules import answer_is_concluded, match_answer
from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.samples import Sample
from swift_thyme.rewards.judge import Judge, JudgeSession
from swift_thyme.rewards.metrics import RewardMetrics
from swift_thyme.rewards.questions import (
    JudgeQuestion,
    ask_answer,
    ask_answer_process,
    ask_code,
    ask_code_process,
    ask_consistency,
)
from swift_thyme.rewards.reward_settings import RewardSettings

__all__ = ["RewardScorer", "RewardStep", "executed_share"]

logger = logging.getLogger(__name__)

_MATHS_BUDGET_S = 30.0
"""Longest time (in seconds) that one step spends on mathematical expressions."""


class RewardScorer:
    """Scores completions; shared by all reward functions of a process.

    Args:
        settings: Weights, limits, and where the judge is.
        metrics: Counters to add to; None makes new ones.
    """

    def __init__(self, settings: RewardSettings, metrics: RewardMetrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics if metrics is not None else RewardMetrics()
        self.maths = MathsChecker(settings.maths_timeout_s)
        self.judge = Judge(settings.judge, self.metrics) if settings.judge.enabled else None
        self._steps: WeakKeyDictionary[asyncio.AbstractEventLoop, RewardStep] = WeakKeyDictionary()
        self._said: set[str] = set()
        if self.judge is None:
            self.say_once(
                "no judge is configured (THYME_JUDGE_URLS, or REWARD_API_ADDRESS and "
                "QWEN_API_PORT): rules alone decide, and answers that they cannot decide count as "
                "wrong"
            )

    def say_once(self, message: str) -> None:
        """Log a warning that later repetitions would not make any truer."""
        if message not in self._said:
            self._said.add(message)
            logger.warning("%s", message)

    def close(self) -> None:
        """End the maths process."""
        self.maths.close()

    @asynccontextmanager
    async def step(self) -> AsyncIterator[RewardStep]:
        """Join the step of the running event loop, or open it; the last to leave closes it.

        Raises:
            JudgeError: On leaving, when every request has failed for too many steps in a row.
        """
        loop = asyncio.get_running_loop()
        step = self._steps.get(loop)
        if step is None:
            session = self.judge.session() if self.judge is not None else None
            step = self._steps[loop] = RewardStep(self, session)
        step.users += 1
        try:
            # The rewards of a step start one after the other; let all of them join before the
            # first can finish and close what the others would have shared.
            await asyncio.sleep(0)
            yield step
        finally:
            step.users -= 1
            if not step.users:
                self._steps.pop(loop, None)
                await step.close()


class RewardStep:
    """Verdicts of one step; lives and dies with its event loop."""

    def __init__(self, scorer: RewardScorer, session: JudgeSession | None) -> None:
        self.users = 0
        self._scorer = scorer
        self._session = session
        self._verdicts: dict[Hashable, asyncio.Task[Verdict | None]] = {}
        self._maths_left_s = _MATHS_BUDGET_S

    async def close(self) -> None:
        """Cancel what is still asked and close the connections."""
        for task in self._verdicts.values():
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def verdict(self, sample: Sample) -> Verdict | None:
        """Return RIGHT or WRONG for the answer; None where a judge was needed and failed.

        Without a judge an answer that the rules leave undecided is WRONG: an answer then has to
        match by form, as in any reward that is a rule, and a right one is told from the rest of its
        group. A row without a solution has no verdict.
        """
        if not sample.references:
            self._scorer.say_once(
                "rows without `solution` have no answer reward; where another column holds the "
                """answers, give --columns '{"NAME": "solution"}'"""
            )
            return None
        key = (sample.question, sample.references, sample.answer)
        task = self._verdicts.get(key)
        if task is None:
            task = self._verdicts[key] = asyncio.create_task(self._decide(sample))
        return await task

    async def _decide(self, sample: Sample) -> Verdict | None:
        metrics = self._scorer.metrics
        # In a thread: comparing expressions waits for another process.
        verdict = await asyncio.to_thread(
            match_answer, sample.answer, sample.references, sample.question, self._maths
        )
        metrics.count("answers")
        if verdict is not Verdict.UNDECIDED:
            metrics.count("answers_by_rule")
            return verdict
        if self._session is None:
            return Verdict.WRONG
        score = await self._ask(ask_answer(sample, self._scorer.settings.judge))
        if score is None:
            return None
        return Verdict.RIGHT if score == 1.0 else Verdict.WRONG

    def _maths(self, answer: str, reference: str) -> Verdict:
        if self._maths_left_s <= 0:
            return Verdict.UNDECIDED
        started = time.monotonic()
        try:
            return self._scorer.maths(answer, reference)
        finally:
            self._maths_left_s -= time.monotonic() - started

    async def answer(self, sample: Sample) -> float | None:
        """Score of ``vqa_orm``: whether the answer is right."""
        verdict = await self.verdict(sample)
        return None if verdict is None else float(verdict is Verdict.RIGHT)

    async def consistency(self, sample: Sample) -> float | None:
        """Score of ``cst_orm``: whether the reasoning leads to the answer given.

        Where consistency needs a right result, a wrong one scores 0 without asking (Thyme, reward
        design), and one whose verdict failed stays unscored.
        """
        answer, reasoning = sample.answer, sample.reasoning
        if self._scorer.settings.consistency_needs_right:
            verdict = await self.verdict(sample)
            if verdict is None:
                return None
            if verdict is Verdict.WRONG:
                return 0.0
        if not answer or not reasoning:
            return 0.0
        if self._session is None:
            return float(answer_is_concluded(reasoning, answer))
        return await self._ask(ask_consistency(sample, self._scorer.settings.judge))

    async def code(self, sample: Sample) -> float | None:
        """Score of ``code_orm_llm``: whether the code is right and serves the question."""
        if not sample.reading.programs:
            return 0.0
        return await self._ask(ask_code(sample, self._scorer.settings.judge))

    async def answer_process(self, sample: Sample) -> float | None:
        """Score of ``vqa_prm``: how sound the reasoning is, step by step."""
        if not sample.reasoning:
            return 0.0
        return await self._ask(ask_answer_process(sample, self._scorer.settings.judge))

    async def code_process(self, sample: Sample) -> float | None:
        """Score of ``code_prm``: what the images that the code made are worth."""
        if not sample.reading.programs:
            return 0.0
        question = await asyncio.to_thread(ask_code_process, sample, self._scorer.settings.judge)
        return None if question is None else await self._ask(question)

    async def _ask(self, question: JudgeQuestion) -> float | None:
        if self._session is None:
            self._scorer.say_once(
                "code_orm_llm, vqa_prm and code_prm need a judge; without one they score nothing"
            )
            return None
        return await self._session.ask(question)


def executed_share(sample: Sample) -> float | None:
    """Score of ``code_orm``: the share of the code blocks written that ran without an error.

    The scheduler's record decides, never the text: a model can write sandbox output itself. No code
    scores 0. Where code was written and nothing was recorded, nobody knows whether it ran: None.
    """
    written = len(sample.reading.programs)
    if sample.rollout is None or not sample.rollout.blocks_recorded:
        return None if written else 0.0
    written = max(written, sample.rollout.blocks_written)
    return sample.rollout.blocks_ran / written if written else 0.0
