"""The report of an evaluation as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from swift_thyme.evaluation.arms import TITLES, Arm
from swift_thyme.evaluation.effects import PAIR_KINDS

__all__ = ["report_table"]

_COUNTS = (
    ("n: trajectories", "trajectories"),
    ("  missing", "missing"),
    ("  undecided by rules", "undecided_by_rules"),
    ("  counted wrong, no judge", "undecided_counted_wrong"),
    ("  judge failed", "judge_failed"),
)
_NOTHING = {"mean": None}


def report_table(report: Mapping[str, Any]) -> Table:
    """Return the report as a table with one column per arm; three of them fit 80 characters."""
    results = report["results"]
    arms = [arm.value for arm in Arm if arm.value in results]
    gap = "\n" if len(arms) > 2 else " "
    table = Table(title=escape(report["data"]), title_justify="left")
    table.add_column("%")
    for arm in arms:
        table.add_column(TITLES[Arm(arm)], justify="right")

    def row(name: str, cells: list[str]) -> None:
        table.add_row(escape(name), *cells)

    def share(name: str, key: str) -> None:
        row(name, [_percent(results[arm][key]) for arm in arms])

    row("right [95 % interval]", [_with_interval(results[arm]["accuracy"], gap) for arm in arms])
    by_run = [results[arm]["accuracy_by_run"] for arm in arms]
    if any(len(runs) > 1 for runs in by_run):
        row("right, each run", [" ".join(map(_percent, runs.values())) for runs in by_run])
    for column in dict.fromkeys(name for arm in arms for name in results[arm]["by_category"]):
        shown = {arm: results[arm]["by_category"].get(column, {}) for arm in arms}
        for value in sorted({value for arm in arms for value in shown[arm]}):
            cells = [_with_interval(shown[arm].get(value, _NOTHING), gap) for arm in arms]
            row(f"  {column}: {value}", cells)
    share("unanswered", "unanswered")
    share("used the tool", "tool_use_rate")
    share("code without an error", "code_success_rate")
    table.add_section()
    for name, key in _COUNTS:
        row(name, [str(results[arm][key]) for arm in arms])
    if report["unusable_rows"]:
        blank = [""] * (len(arms) - 1)
        row("n: unusable rows", [str(len(report["unusable_rows"])), *blank])
    if results["effects"]:
        table.add_section()
        _add_effects(table, [results["effects"].get(arm) for arm in arms], gap)
    return table


def _add_effects(table: Table, columns: list[Mapping[str, Any] | None], gap: str) -> None:
    """Add the effect against each arm to its column; that of the tool itself stays empty."""

    def row(name: str, cells: list[str]) -> None:
        table.add_row(escape(name), *cells)

    def estimate(key: str, sign: str = "") -> list[str]:
        return [_with_interval(column[key], gap, sign) if column else "" for column in columns]

    row("effect of the tool", estimate("difference", sign="+"))
    row("n: pairs", [str(c["difference"]["n"]) if c else "" for c in columns])
    for kind, words in PAIR_KINDS.items():
        row(f"  {words}", [str(column[kind]) if column else "" for column in columns])
    row("answers that change", estimate("answers_that_change"))


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def _with_interval(estimate: Mapping[str, Any], gap: str, sign: str = "") -> str:
    if estimate["mean"] is None:
        return "-"
    mean, low, high = (_percent(estimate[key], sign) for key in ("mean", "low", "high"))
    return f"{mean}{gap}[{low}, {high}]"
