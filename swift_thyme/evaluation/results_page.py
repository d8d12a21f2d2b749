"""The page of an evaluation: bars with their intervals, and behind each number its trajectories.

It is the page of ``thyme view`` with a sheet in front of it. This module says which numbers the
sheet shows and which trajectories are behind each; ``results.js`` draws them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.evaluation.arms import BASELINES, TITLES, Arm
from swift_thyme.evaluation.effects import PAIR_KINDS, pairs_of
from swift_thyme.evaluation.outcome import Outcome
from swift_thyme.evaluation.results import INTERVALS
from swift_thyme.view.page import PageReport, Sheet, build_page
from swift_thyme.view.sources import Loaded

__all__ = ["Benchmark", "write_results_page"]

MOST_TRAJECTORIES = 1000
"""With more, the page holds the trajectories of evenly spaced rows; the numbers are of all rows."""


class Benchmark(NamedTuple):
    """One file that was evaluated."""

    folder: Path
    """Where its trajectories and their images are."""
    report: Mapping[str, Any]
    """What ``build_report`` returned."""
    outcomes: Sequence[Outcome]
    base_folder: Path | None = None
    """Where those of another model are; None without one."""


def write_results_page(
    output: Path,
    benchmarks: Sequence[Benchmark],
    title: str,
    *,
    most: int = MOST_TRAJECTORIES,
) -> PageReport:
    """Write the page.

    Args:
        output: The page's file.
        benchmarks: What was evaluated, at least one trajectory.
        title: Shown at the top: the model.
        most: See ``MOST_TRAJECTORIES``; rows are kept whole, so a few more may be in the page.

    Raises:
        DataError: The file cannot be written.
    """
    loaded: list[Loaded] = []
    shown = []
    share = min(1.0, most / max(1, sum(len(b.outcomes) for b in benchmarks)))
    for benchmark in benchmarks:
        places: dict[str, int] = {}
        for outcome in _kept(benchmark.outcomes, share):
            places[outcome.record.id] = len(loaded)
            # The judge's verdict takes the place of what the rules said.
            record = dataclasses.replace(outcome.record, rewards={"correct": outcome.score})
            other = benchmark.base_folder if outcome.job.arm is Arm.BASE else None
            loaded.append(Loaded(record, other or benchmark.folder))
        shown.append(_benchmark(benchmark, places))
    sheet = Sheet(
        "Results",
        {
            "note": f"A count leads to its trajectories. Lines are intervals, {INTERVALS}.",
            "complete": share == 1.0,
            "benchmarks": shown,
        },
        *(
            files("swift_thyme.evaluation").joinpath(name).read_text(encoding="utf-8")
            for name in ("results.css", "results.js")
        ),
    )
    return build_page(loaded, output, title=title, max_trajectories=len(loaded), sheet=sheet)


def _kept(outcomes: Sequence[Outcome], share: float) -> list[Outcome]:
    """Return the outcomes of evenly spaced rows, those of a row side by side."""
    rows: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.job.item.row, []).append(outcome)
    arms = list(Arm)
    kept = []
    for number, row in enumerate(sorted(rows)):
        if int((number + 1) * share) > int(number * share) or share == 1.0:
            kept += sorted(rows[row], key=lambda o: (o.job.run, arms.index(o.job.arm)))
    return kept


def _benchmark(benchmark: Benchmark, places: Mapping[str, int]) -> dict[str, Any]:
    results, found = benchmark.report["results"], benchmark.outcomes
    arms = [arm for arm in Arm if arm.value in results]
    numbers = {arm: results[arm.value]["accuracy"] for arm in arms}
    whole = _group("", numbers, results["effects"], found, places)
    columns: list[dict[str, Any]] = []
    for column in dict.fromkeys(name for arm in arms for name in results[arm.value]["by_category"]):
        by_arm = {arm: results[arm.value]["by_category"].get(column, {}) for arm in arms}
        groups = []
        for value in sorted({value for values in by_arm.values() for value in values}):
            inside = [o for o in found if o.job.item.categories.get(column) == value]
            groups.append(
                _group(
                    value,
                    {arm: values[value] for arm, values in by_arm.items() if value in values},
                    {
                        arm: effect["by_category"][column][value]
                        for arm, effect in results["effects"].items()
                        if value in effect["by_category"].get(column, {})
                    },
                    inside,
                    places,
                )
            )
        columns.append({"name": column, "groups": groups})
    return {
        "name": benchmark.report["data"],
        "unusable": len(benchmark.report["unusable_rows"]),
        "missing": sum(results[arm.value]["missing"] for arm in arms),
        "whole": whole,
        "columns": columns,
    }


def _group(
    label: str,
    numbers: Mapping[Arm, Mapping[str, Any]],
    effects: Mapping[str, Mapping[str, Any]],
    found: Sequence[Outcome],
    places: Mapping[str, int],
) -> dict[str, Any]:
    """Return bars and effects of some rows; each count names the places of its trajectories."""

    def part(words: str, outcomes: Sequence[Outcome], count: int) -> dict[str, Any]:
        members = [places[o.record.id] for o in outcomes if o.record.id in places]
        return {"words": words, "count": count, "members": members}

    bars = []
    for arm, estimate in numbers.items():
        own = [outcome for outcome in found if outcome.job.arm is arm]
        parts = []
        for words, belongs in _PARTS.items():
            inside = [outcome for outcome in own if belongs(outcome)]
            if inside:
                parts.append(part(words, inside, len(inside)))
        bars.append({"arm": arm.value, "title": TITLES[arm], **estimate, "parts": parts})
    shown_effects = []
    for arm in BASELINES:
        effect = effects.get(arm.value)
        if effect is None:
            continue
        pairs = pairs_of(found, arm)
        parts = []
        for kind, words in PAIR_KINDS.items():
            both = [outcome for pair in pairs if pair.kind == kind for outcome in pair]
            parts.append(part(words, both, effect[kind]))
        title = f"effect over: {TITLES[arm]}"
        shown_effects.append({"title": title, **effect["difference"], "parts": parts})
    return {"label": label, "bars": bars, "effects": shown_effects}


def _answered(outcome: Outcome) -> bool:
    return outcome.record.answer is not None


_PARTS: dict[str, Callable[[Outcome], bool]] = {
    "right": lambda o: o.score is not None and o.score >= 0.5,
    "wrong": lambda o: o.score is not None and o.score < 0.5 and _answered(o),
    "no answer": lambda o: o.score is not None and o.score < 0.5 and not _answered(o),
    "not scored": lambda o: o.score is None,
}
"""How a trajectory may come out; each comes out in one of these ways."""
