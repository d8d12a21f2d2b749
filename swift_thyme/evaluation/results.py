"""The numbers of an evaluation, as JSON values.

Everything under ``results`` is a function of the trajectories alone, so a run that was killed and
resumed gives the same; times stand apart from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.statistics import mean_score
from swift_thyme.evaluation.arms import Arm
from swift_thyme.evaluation.effects import as_json, effects
from swift_thyme.evaluation.outcome import Outcome, group_of
from swift_thyme.evaluation.run import Evaluation, Job

__all__ = ["INTERVALS", "build_report"]

INTERVALS = (
    "95 %: Wilson's for a share, Newcombe's for a difference of pairs; rows with the same picture, "
    "and all runs of a row, count together"
)
"""What the intervals are, in the words of the report."""


def build_report(
    evaluation: Evaluation, jobs: Sequence[Job], found: Sequence[Outcome]
) -> dict[str, Any]:
    """Return the report as JSON values."""
    arms = [arm for arm in Arm if any(outcome.job.arm is arm for outcome in found)]
    results: dict[str, Any] = {
        arm.value: _arm_results(
            [outcome for outcome in found if outcome.job.arm is arm],
            sum(job.arm is arm for job in jobs),
        )
        for arm in arms
    }
    own = [outcome for outcome in found if outcome.job.arm is not Arm.BASE]
    seconds = [outcome.record.timings.get("total_s", 0.0) for outcome in own]
    return {
        "data": evaluation.dataset.name,
        "interval": INTERVALS,
        "results": {**results, "effects": effects(found)},
        "unusable_rows": [
            {"row": row, "reason": reason} for row, reason in sorted(evaluation.problems.items())
        ],
        "times": {
            "seconds_per_item": sum(seconds) / len(seconds) if seconds else None,
            "sandbox_seconds_per_item": (
                sum(o.record.timings.get("sandbox_s", 0.0) for o in own) / len(own) if own else None
            ),
        },
    }


def _accuracy(found: Sequence[Outcome]) -> dict[str, Any]:
    scored = [outcome for outcome in found if outcome.score is not None]
    return as_json(
        mean_score([outcome.score or 0.0 for outcome in scored], [group_of(o) for o in scored])
    )


def _arm_results(found: Sequence[Outcome], wanted: int) -> dict[str, Any]:
    n = len(found)
    statuses = Counter(status for outcome in found for status in outcome.record.statuses)
    runs = sorted({outcome.job.run for outcome in found})
    undecided = [o for o in found if o.match.verdict is Verdict.UNDECIDED]
    tokens = [o.record.sampled_tokens for o in found if o.record.sampled_tokens is not None]
    return {
        "trajectories": n,
        "missing": wanted - n,
        "accuracy": _accuracy(found),
        "accuracy_by_run": {
            str(run): _accuracy([o for o in found if o.job.run == run])["mean"] for run in runs
        },
        "unanswered": _share(sum(o.record.answer is None for o in found), n),
        "undecided_by_rules": len(undecided),
        "undecided_counted_wrong": sum(o.judged is None and not o.judge_failed for o in undecided),
        "judge_failed": sum(o.judge_failed for o in undecided),
        "tool_use_rate": _share(sum(o.record.tool_used for o in found), n),
        "code_success_rate": _share(statuses["ok"], statuses.total()),
        "code_blocks": statuses.total(),
        "returned_images": sum(len(segment.images) for o in found for segment in o.record.segments),
        "tokens_per_item": sum(tokens) / len(tokens) if tokens else None,
        "end_reasons": dict(sorted(Counter(str(o.record.end_reason) for o in found).items())),
        "by_category": _by_category(found),
    }


def _by_category(found: Sequence[Outcome]) -> dict[str, Any]:
    table: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(name for o in found for name in o.job.item.categories):
        values = sorted({o.job.item.categories.get(column, "") for o in found} - {""})
        table[column] = {
            value: _accuracy([o for o in found if o.job.item.categories.get(column) == value])
            for value in values
        }
    return table


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
