"""What an evaluation says: numbers, as JSON and as a table.

Everything under ``results`` is a function of the trajectories alone, so a run that was killed and
resumed gives the same; times stand apart from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from swift_thyme.answers.rules import MathsCheck
from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.trajectory_files import TrajectoryRecord
from swift_thyme.evaluation.matching import Match, match
from swift_thyme.evaluation.run import Arm, Evaluation, Job
from swift_thyme.evaluation.statistics import Estimate, bootstrap_mean

__all__ = ["Outcome", "build_report", "outcomes", "report_table"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trajectory and what it is worth."""

    job: Job
    record: TrajectoryRecord
    match: Match
    judged: float | None = None
    """Score of a judge where the rules left the answer undecided; None where none was asked."""
    judge_failed: bool = False
    """Whether a judge was asked and gave no verdict."""

    @property
    def score(self) -> float | None:
        """1 right, 0 wrong; None where a judge was needed and failed."""
        if self.match.verdict is not Verdict.UNDECIDED:
            return float(self.match.verdict is Verdict.RIGHT)
        if self.judge_failed:
            return None
        return self.judged if self.judged is not None else 0.0


def outcomes(
    evaluation: Evaluation, jobs: list[Job], maths: MathsCheck | None = None
) -> list[Outcome]:
    """Return the outcome of every job that is done, by rules alone."""
    records = evaluation.records()
    return [
        Outcome(
            job,
            records[job.id],
            match(evaluation.show(job.item, job.run), records[job.id].answer, maths),
        )
        for job in jobs
        if job.id in records
    ]


def build_report(evaluation: Evaluation, jobs: list[Job], found: list[Outcome]) -> dict[str, Any]:
    """Return the report as JSON values."""
    arms = [arm for arm in Arm if any(outcome.job.arm is arm for outcome in found)]
    results: dict[str, Any] = {
        arm.value: _arm_results(
            evaluation,
            [outcome for outcome in found if outcome.job.arm is arm],
            sum(job.arm is arm for job in jobs),
        )
        for arm in arms
    }
    if len(arms) == len(Arm):
        results["changed_without_tools"] = _changed(evaluation, found)
    seconds = [outcome.record.timings.get("total_s", 0.0) for outcome in found]
    return {
        "data": evaluation.dataset.name,
        "interval": "95 % percentile bootstrap over "
        + ("questions with all their rotations" if evaluation.dataset.cyclic else "items"),
        "results": results,
        "unusable_rows": [
            {"row": row, "reason": reason} for row, reason in sorted(evaluation.problems.items())
        ],
        "times": {
            "seconds_per_item": sum(seconds) / len(seconds) if seconds else None,
            "sandbox_seconds_per_item": (
                sum(o.record.timings.get("sandbox_s", 0.0) for o in found) / len(found)
                if found
                else None
            ),
        },
    }


def _group(evaluation: Evaluation, outcome: Outcome) -> Hashable:
    item = outcome.job.item
    if evaluation.dataset.cyclic:
        return (item.question, tuple(sorted(item.options.values())))
    return item.index


def _estimate(values: Estimate) -> dict[str, Any]:
    return {"mean": values.mean, "low": values.low, "high": values.high, "n": values.n}


def _accuracy(evaluation: Evaluation, found: list[Outcome]) -> dict[str, Any]:
    scored = [outcome for outcome in found if outcome.score is not None]
    return _estimate(
        bootstrap_mean(
            [outcome.score or 0.0 for outcome in scored],
            [_group(evaluation, outcome) for outcome in scored],
        )
    )


def _arm_results(evaluation: Evaluation, found: list[Outcome], wanted: int) -> dict[str, Any]:
    n = len(found)
    statuses = Counter(status for outcome in found for status in outcome.record.statuses)
    runs = sorted({outcome.job.run for outcome in found})
    undecided = [o for o in found if o.match.verdict is Verdict.UNDECIDED]
    tokens = [o.record.sampled_tokens for o in found if o.record.sampled_tokens is not None]
    return {
        "trajectories": n,
        "missing": wanted - n,
        "accuracy": _accuracy(evaluation, found),
        "accuracy_by_run": {
            str(run): _accuracy(evaluation, [o for o in found if o.job.run == run])["mean"]
            for run in runs
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
        "by_category": _by_category(evaluation, found),
    }


def _by_category(evaluation: Evaluation, found: list[Outcome]) -> dict[str, Any]:
    table: dict[str, dict[str, Any]] = {}
    for column in dict.fromkeys(name for o in found for name in o.job.item.categories):
        values = sorted({o.job.item.categories.get(column, "") for o in found} - {""})
        table[column] = {
            value: _accuracy(
                evaluation, [o for o in found if o.job.item.categories.get(column) == value]
            )
            for value in values
        }
    return table


def _changed(evaluation: Evaluation, found: list[Outcome]) -> dict[str, Any]:
    """Return the share of answers that are not the same with and without the tool."""
    keys: dict[tuple[str, int], dict[Arm, Outcome]] = {}
    for outcome in found:
        keys.setdefault((outcome.job.item.index, outcome.job.run), {})[outcome.job.arm] = outcome
    pairs = [pair for pair in keys.values() if len(pair) == len(Arm)]
    values = [float(p[Arm.TOOLS].match.key != p[Arm.NO_TOOLS].match.key) for p in pairs]
    groups = [_group(evaluation, p[Arm.TOOLS]) for p in pairs]
    return _estimate(bootstrap_mean(values, groups))


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _with_interval(estimate: Mapping[str, Any]) -> str:
    if estimate["mean"] is None:
        return "-"
    return (
        f"{_percent(estimate['mean'])} [{_percent(estimate['low'])}, {_percent(estimate['high'])}]"
    )


def report_table(report: Mapping[str, Any]) -> Table:
    """Return the report as a table with one column per arm."""
    results = report["results"]
    arms = [arm.value for arm in Arm if arm.value in results]
    table = Table(title=escape(report["data"]), title_justify="left")
    table.add_column("%")
    titles = {Arm.TOOLS.value: "with tools", Arm.NO_TOOLS.value: "without"}
    for arm in arms:
        table.add_column(titles[arm], justify="right")

    def row(name: str, cells: list[str]) -> None:
        table.add_row(escape(name), *cells)

    def share(name: str, key: str) -> None:
        row(name, [_percent(results[arm][key]) for arm in arms])

    row("right [95 % interval]", [_with_interval(results[arm]["accuracy"]) for arm in arms])
    by_run = [results[arm]["accuracy_by_run"] for arm in arms]
    if any(len(runs) > 1 for runs in by_run):
        row("right, each run", [" ".join(map(_percent, runs.values())) for runs in by_run])
    for column in dict.fromkeys(name for arm in arms for name in results[arm]["by_category"]):
        values = sorted({v for arm in arms for v in results[arm]["by_category"].get(column, {})})
        for value in values:
            empty = {"mean": None}
            row(
                f"  {column}: {value}",
                [
                    _with_interval(results[arm]["by_category"].get(column, {}).get(value, empty))
                    for arm in arms
                ],
            )
    share("unanswered", "unanswered")
    share("used the tool", "tool_use_rate")
    share("code blocks without an error", "code_success_rate")
    counts = (
        ("trajectories", "trajectories"),
        ("  missing", "missing"),
        ("  undecided by rules", "undecided_by_rules"),
        ("  of these counted wrong, no judge", "undecided_counted_wrong"),
        ("  judge failed, not counted", "judge_failed"),
    )
    table.add_section()
    for name, key in counts:
        row(f"n: {name.strip()}" if name[0] != " " else name, [str(results[a][key]) for a in arms])
    if report["unusable_rows"]:
        blank = [""] * (len(arms) - 1)
        row("n: rows that cannot be used", [str(len(report["unusable_rows"])), *blank])
    if "changed_without_tools" in results:
        table.add_section()
        blank = [""] * (len(arms) - 1)
        row("answers that change", [_with_interval(results["changed_without_tools"]), *blank])
    return table
