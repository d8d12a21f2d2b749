"""Asks the rewards' judge about the answers that the rules leave undecided."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.protocol import ANSWER_CLOSE, ANSWER_OPEN
from swift_thyme.core.reading import read
from swift_thyme.core.samples import Sample
from swift_thyme.evaluation.outcome import Outcome
from swift_thyme.rewards.judge import Judge
from swift_thyme.rewards.metrics import RewardMetrics
from swift_thyme.rewards.questions import ask_answer
from swift_thyme.rewards.reward_settings import JudgeSettings, RewardSettings

__all__ = ["judge_settings", "judge_undecided"]


def judge_settings() -> JudgeSettings:
    """Return the judge that the environment names.

    Raises:
        SettingsError: It names none, or a variable cannot be used.
    """
    settings = RewardSettings.from_env().judge
    if not settings.enabled:
        raise SettingsError("--judge needs THYME_JUDGE_URLS (see docs/rewards.md)")
    return settings


async def judge_undecided(
    out: Path, found: Sequence[Outcome], settings: JudgeSettings | None = None
) -> list[Outcome]:
    """Return the outcomes with the judge's verdicts; what it said before is not asked again.

    Args:
        out: Folder of the evaluation, which keeps the verdicts.
        found: The outcomes by rules.
        settings: Where the judge is; None reads the environment.

    Raises:
        SettingsError: No judge is configured.
        JudgeError: No judge answered anything, too often.
    """
    settings = settings or judge_settings()
    path = out / "verdicts.jsonl"
    known = _read(path)
    judge = Judge(settings, RewardMetrics())
    session = judge.session()

    async def ask(outcome: Outcome) -> Outcome:
        record = outcome.record
        score = known.get(record.id)
        if score is None:
            score = await session.ask(ask_answer(_sample(outcome), settings))
            if score is not None:
                _append(path, record.id, score)
        return dataclasses.replace(outcome, judged=score, judge_failed=score is None)

    async def unchanged(outcome: Outcome) -> Outcome:
        return outcome

    try:
        return list(
            await asyncio.gather(
                *(ask(o) if o.match.verdict is Verdict.UNDECIDED else unchanged(o) for o in found)
            )
        )
    finally:
        await session.close()


def _append(path: Path, record_id: str, score: float) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"id": record_id, "score": score}) + "\n")


def _sample(outcome: Outcome) -> Sample:
    record = outcome.record
    completion = record.completion
    if read(completion).answer is None and record.answer is not None:
        # The reply to a plain prompt is the answer.
        completion = f"{ANSWER_OPEN}{record.answer}{ANSWER_CLOSE}"
    return Sample(completion=completion, question=record.question, references=record.reference)


def _read(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    known = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            value = json.loads(line)
            known[str(value["id"])] = float(value["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: {error!r}") from error
    return known
