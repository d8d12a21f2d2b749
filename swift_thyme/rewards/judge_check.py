"""Does the judge answer? One question whose verdict nobody can miss, before a job depends on it."""

from __future__ import annotations

import dataclasses

from swift_thyme.core.errors import JudgeError
from swift_thyme.rewards.judge import Judge
from swift_thyme.rewards.metrics import RewardMetrics
from swift_thyme.rewards.questions import JudgeQuestion
from swift_thyme.rewards.reward_settings import JudgeSettings

__all__ = ["check_judge"]

_QUESTION = JudgeQuestion(
    "answer",
    "Correctness",
    1,
    (("question", "What is one plus one?"), ("reference", "2"), ("answer", "2")),
)


async def check_judge(settings: JudgeSettings) -> None:
    """Ask for one verdict, with the retries and limits of a training step.

    What is found out about the servers is forgotten again, and nothing is counted.

    Args:
        settings: Where the servers are; at least one.

    Raises:
        JudgeError: No server gave a verdict; the message says how each failed.
    """
    # A single failed step is what this asks about; the limit of the job is another matter.
    judge = Judge(dataclasses.replace(settings, max_failed_steps=2), RewardMetrics())
    session = judge.session()
    try:
        score = await session.ask(_QUESTION)
    finally:
        await session.close()
    if score is None:
        raise JudgeError(
            f"no judge answers: {judge.failures()}; start it, or correct THYME_JUDGE_URLS "
            "(`thyme doctor` asks each server)"
        )
