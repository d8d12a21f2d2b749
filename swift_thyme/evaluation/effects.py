"""The effect of the tool: each row with the tool beside the same row without it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from swift_thyme.core.statistics import Estimate, mean_difference, mean_score
from swift_thyme.evaluation.arms import BASELINES, Arm
from swift_thyme.evaluation.outcome import Outcome, group_of

__all__ = ["PAIR_KINDS", "Pair", "as_json", "effects", "pairs_of"]

PAIR_KINDS = {
    "both_right": "both right",
    "only_with": "only with the tool",
    "only_without": "only without",
    "neither": "neither",
}
"""Names in the report and words in the table of how a pair may come out."""


class Pair(NamedTuple):
    """The same row and run, with and without the tool; both have a score."""

    with_tool: Outcome
    without: Outcome

    @property
    def scores(self) -> tuple[float, float]:
        """Score with the tool, score without."""
        return self.with_tool.score or 0.0, self.without.score or 0.0

    @property
    def kind(self) -> str:
        """A key of ``PAIR_KINDS``; half a point of a judge and more counts as right."""
        right, right_without = (score >= 0.5 for score in self.scores)
        if right:
            return "both_right" if right_without else "only_with"
        return "only_without" if right_without else "neither"


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as the report holds it."""
    return dict(estimate._asdict())


def pairs_of(found: Sequence[Outcome], against: Arm) -> list[Pair]:
    """Return the rows and runs that have a score with the tool and in another arm."""
    keys: dict[tuple[Hashable, int], dict[Arm, Outcome]] = {}
    for outcome in found:
        if outcome.score is not None:
            key = (outcome.job.item.index, outcome.job.run)
            keys.setdefault(key, {})[outcome.job.arm] = outcome
    wanted = {Arm.TOOLS, against}
    return [Pair(arms[Arm.TOOLS], arms[against]) for arms in keys.values() if wanted <= set(arms)]


def effects(found: Sequence[Outcome]) -> dict[str, Any]:
    """Return the effect of the tool against each baseline that was run, by the baseline's name."""
    result = {}
    for against in BASELINES:
        pairs = pairs_of(found, against)
        if pairs:
            result[against.value] = {**_effect(pairs), "by_category": _by_category(pairs)}
    return result


def _effect(pairs: Sequence[Pair]) -> dict[str, Any]:
    first, second = zip(*(pair.scores for pair in pairs), strict=True)
    groups = [group_of(pair.with_tool) for pair in pairs]
    kinds = [pair.kind for pair in pairs]
    changed = [float(p.with_tool.match.key != p.without.match.key) for p in pairs]
    return {
        "difference": as_json(mean_difference(first, second, groups)),
        **{kind: kinds.count(kind) for kind in PAIR_KINDS},
        "answers_that_change": as_json(mean_score(changed, groups)),
    }


def _by_category(pairs: Sequence[Pair]) -> dict[str, Any]:
    table: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        for column, value in pair.with_tool.job.item.categories.items():
            table.setdefault(column, {}).setdefault(value, []).append(pair)
    return {
        column: {value: _effect(table[column][value]) for value in sorted(table[column])}
        for column in table
    }
