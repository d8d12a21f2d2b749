"""Which metrics of a run are drawn, and which of them share a picture.

``thyme report --plot`` and the page of ``thyme view`` draw the same panels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from swift_thyme.view.run_log import Entry, RunLog

__all__ = ["Panel", "Series", "as_json", "panels_of", "thinned"]

MOST_POINTS = 300
"""Points of a line in the page; it is drawn at about this many pixels."""


class Series(NamedTuple):
    """One line of a panel."""

    name: str
    held_out: bool
    """Whether it was measured in evaluations."""
    points: tuple[tuple[int, float], ...]
    """(step, value), by step."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share their axes."""

    title: str
    unit: str
    """Of the values; empty for shares and rewards."""
    series: tuple[Series, ...]


class _Spec(NamedTuple):
    title: str
    unit: str
    metrics: tuple[tuple[str, str], ...]
    """Metric and the name of its line. ``*`` in both stands for any text, the same in both."""
    absent_is_zero: bool = False
    """Whether a step that logs others of these metrics means 0 by leaving one out."""


_SPECS = (
    _Spec("Reward", "", (("reward", "reward"),)),
    _Spec("Reward functions", "", (("rewards/*/mean", "*"),)),
    _Spec("Accuracy (vqa_orm)", "", (("rewards/VqaORM/mean", "accuracy"),)),
    _Spec(
        "Tool use and code",
        "share",
        (
            ("thyme/tool_use_rate", "tool used"),
            ("thyme/code_success_rate", "code without an error"),
            ("thyme/no_code_rate", "no code written"),
        ),
    ),
    _Spec(
        "Per answer",
        "",
        (("thyme/turns", "turns"), ("thyme/blocks", "blocks"), ("thyme/images", "images")),
    ),
    _Spec(
        "Length",
        "tokens",
        (
            ("completions/mean_length", "completion, mean"),
            ("completions/max_length", "completion, longest"),
            ("thyme/sampled_tokens", "sampled"),
        ),
    ),
    _Spec("Ends", "share", (("thyme/end/*", "*"),), absent_is_zero=True),
    _Spec("Failed blocks", "share", (("thyme/status/*", "*"),), absent_is_zero=True),
    _Spec("Sandbox, per answer", "s", (("thyme/sandbox_s", "sandbox"),)),
    _Spec("Step", "s", (("step_time", "step"),)),
)


def panels_of(log: RunLog) -> tuple[Panel, ...]:
    """Return the panels of a run; a metric that was never logged has no line."""
    panels = []
    for spec in _SPECS:
        series = [
            line
            for entries, held_out in ((log.training, False), (log.evaluations, True))
            for line in _series(spec, entries, held_out)
        ]
        if series:
            panels.append(Panel(spec.title, spec.unit, tuple(series)))
    return tuple(panels)


def _series(spec: _Spec, entries: Sequence[Entry], held_out: bool) -> list[Series]:
    logged = {name: None for entry in entries for name in entry.values}
    names: dict[str, str] = {}
    for metric, label in spec.metrics:
        pattern = re.compile(re.escape(metric).replace(r"\*", "([^/]+)"))
        for name in logged:
            if found := pattern.fullmatch(name):
                names[name] = label.replace("*", found[1] if found.groups() else "")
    lines = []
    for name, label in names.items():
        points = []
        for entry in entries:
            value = entry.values.get(name)
            if value is None and spec.absent_is_zero and not names.keys().isdisjoint(entry.values):
                value = 0.0
            if value is not None:
                points.append((entry.step, value))
        lines.append(Series(label.replace("_", " "), held_out, tuple(points)))
    return lines


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
    """Return at most so many points; neighbours become their mean."""
    if len(points) <= most:
        return [(step, value) for step, value in points]
    result = []
    for index in range(most):
        part = points[index * len(points) // most : (index + 1) * len(points) // most]
        result.append(
            (sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part))
        )
    return result


def as_json(log: RunLog, name: str) -> dict[str, Any]:
    """Return the curves of a run as the page holds them.

    Args:
        log: The run.
        name: Shown above its curves.
    """
    return {
        "run": name,
        "resumed": log.resumed_at,
        "panels": [
            {
                "title": panel.title,
                "unit": panel.unit,
                "series": [
                    {
                        "name": line.name,
                        "heldOut": line.held_out,
                        "points": [
                            [round(step, 1), float(f"{value:.6g}")]
                            for step, value in thinned(line.points, MOST_POINTS)
                        ],
                    }
                    for line in panel.series
                ],
            }
            for panel in panels_of(log)
        ],
    }
