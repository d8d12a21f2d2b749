"""A short table of a GRPO run: what the evaluation showed before and after, and what training did.

Reads ``logging.jsonl`` of an ms-swift run with ``--eval_on_start true`` (or any evaluation steps).
A run that was resumed is one run (:mod:`swift_thyme.view.run_log`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from swift_thyme.core.errors import DataError, ThymeError
from swift_thyme.core.statistics import difference, wilson
from swift_thyme.view.curves_png import draw_curves
from swift_thyme.view.run_log import LOG, RunLog, lineage_of, read_log
from swift_thyme.view.step_shares import describe_time

__all__ = ["PICTURE", "RunReport", "describe_gain", "find_run", "main", "read_run", "render"]

PICTURE = "curves.png"
"""Name of the picture of a run's curves, beside its log."""

ROWS = (
    ("reward", "reward"),
    ("accuracy (vqa_orm)", "rewards/VqaORM/mean"),
    ("format (fmt_orm)", "rewards/FmtORM/mean"),
    ("tool-use rate", "thyme/tool_use_rate"),
    ("code-success rate", "thyme/code_success_rate"),
    ("images returned per answer", "thyme/images"),
    ("turns per answer", "thyme/turns"),
)
"""Label and metric name of each row, in the order of the table."""


_RIGHT_OR_WRONG = ("thyme/right/VqaORM", "thyme/wrong/VqaORM")


class RunReport(NamedTuple):
    """What a run's log holds."""

    before: Mapping[str, float] | None
    """The first evaluation, names without their ``eval_`` prefix; None without evaluations."""
    after: Mapping[str, float] | None
    """The last evaluation; None with fewer than two."""
    first_steps: Mapping[str, float]
    """Means over the first quarter of the training steps."""
    last_steps: Mapping[str, float]
    """Means over the last quarter of the training steps."""
    steps: int
    """Training steps that were logged."""
    least_images_in_a_step: float | None
    """The smallest number of images that the sandbox returned in one step, all ranks together."""


def find_run(folder: Path) -> Path:
    """Return the newest ``logging.jsonl`` at or below a folder.

    Raises:
        DataError: There is none.
    """
    found = sorted(folder.glob(f"**/{LOG}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"no {LOG} below {folder}: the run did not reach its first log")
    return found[-1]


def _mean(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for record in records for name in record}
    return {
        name: sum(values) / len(values)
        for name in names
        if (values := [record[name] for record in records if name in record])
    }


def read_run(log: Path) -> RunReport:
    """Read one ``logging.jsonl``, and those that the run was resumed from.

    Raises:
        DataError: A line is no JSON object; the message names it.
    """
    return summarise(read_log(lineage_of(log.parent)))


def summarise(log: RunLog) -> RunReport:
    """Return what the table shows of a run."""
    training = [entry.values for entry in log.training]
    evaluations = [entry.values for entry in log.evaluations]
    quarter = max(1, len(training) // 4)
    images = [r["thyme/images_total"] for r in training if "thyme/images_total" in r]
    return RunReport(
        before=evaluations[0] if evaluations else None,
        after=evaluations[-1] if len(evaluations) > 1 else None,
        first_steps=_mean(training[:quarter]),
        last_steps=_mean(training[-quarter:]),
        steps=len(training),
        least_images_in_a_step=min(images) if images else None,
    )


def render(report: RunReport) -> Table:
    """Return the table; a value that the log lacks is a dash."""
    quarter = max(1, report.steps // 4)
    table = Table(title=f"{report.steps} training steps")
    table.add_column("")
    table.add_column("held out\nbefore", justify="right")
    table.add_column("held out\nafter", justify="right")
    table.add_column(f"training\nfirst {quarter}", justify="right")
    table.add_column(f"training\nlast {quarter}", justify="right")
    columns = [report.before, report.after, report.first_steps, report.last_steps]
    for label, name in ROWS:
        cells = [f"{column[name]:.3f}" if column and name in column else "-" for column in columns]
        table.add_row(label, *cells)
    return table


def describe_gain(report: RunReport, samples_per_question: int) -> str | None:
    """Say how accuracy on held-out data changed, with 95 % intervals (Wilson, Newcombe).

    Args:
        report: What the log holds.
        samples_per_question: Of an evaluation. Samples of one question are no independent
            evidence, so questions count.

    Returns:
        The sentence; None without two evaluations whose scores are 0 or 1 each.
    """
    shares = [_share(values, samples_per_question) for values in (report.before, report.after)]
    first, last = shares
    if first is None or last is None:
        return None
    low, high = difference(*last, *first)
    chance = "" if low > 0 or high < 0 else ", which chance explains as well"
    return (
        f"accuracy on {first[1]:g} held-out questions (95 % intervals): "
        f"{_with_interval(*first)} before, {_with_interval(*last)} after; "
        f"change {last[0] - first[0]:+.3f} [{low:+.3f}, {high:+.3f}]{chance}"
    )


def _share(values: Mapping[str, float] | None, per_question: int) -> tuple[float, float] | None:
    """Return the share of right answers and the number of questions, if scores are 0 or 1."""
    # Only an evaluation whose scores are 0 or 1 each counts them.
    if values is None or not all(name in values for name in _RIGHT_OR_WRONG):
        return None
    right, wrong = (values[name] for name in _RIGHT_OR_WRONG)
    return right / (right + wrong), (right + wrong) / per_question


def _with_interval(mean: float, n: float) -> str:
    low, high = wilson(mean, n)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _samples_per_question(folder: Path) -> int:
    """Return how often a job samples a question of its evaluation; what is not known counts as 1.

    Raises:
        DataError: The job's arguments cannot be read.
    """
    path = folder / "args.json"
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 1
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return arguments.get("num_generations_eval") or arguments.get("num_generations") or 1


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of a run (``python -m swift_thyme.view.run_table FOLDER``)."""
    parser = argparse.ArgumentParser(description="Print what a GRPO run did.")
    parser.add_argument("folder", type=Path, help="output folder of the run")
    parser.add_argument("--plot", action="store_true", help=f"draw its curves into {PICTURE}")
    arguments = parser.parse_args(argv)
    try:
        _print_report(arguments.folder, Console(), plot=arguments.plot)
    except ThymeError as error:
        parser.exit(1, f"error: {error}\n")


def _print_report(folder: Path, console: Console, *, plot: bool) -> None:
    newest = find_run(folder).parent
    log = read_log(lineage_of(newest))
    report = summarise(log)
    console.print(render(report))
    if report.least_images_in_a_step is not None:
        console.print(f"images returned in one step: at least {report.least_images_in_a_step:.0f}")
    gain = describe_gain(report, _samples_per_question(newest))
    said = [*([] if gain is None else [gain]), *describe_time(report.last_steps)]
    for sentence in [*said, *_sentences(log, folder)]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    if plot:
        draw_curves(log, newest / PICTURE)
        console.print(f"curves: {newest / PICTURE}", markup=False, soft_wrap=True)
    console.print(f"files of the run: {newest}", markup=False, soft_wrap=True)


def _sentences(log: RunLog, folder: Path) -> list[str]:
    """Say which folders the table is made of, and which it leaves out."""
    lineage = log.lineage
    sentences = []
    if len(lineage.folders) > 1:
        before = ", ".join(path.name for path in lineage.folders[:-1])
        sentences.append(f"one run with {before}, from which it was resumed")
    if lineage.lost is not None:
        sentences.append(f"note: it was resumed from {lineage.lost}, which has no {LOG} now")
    known = {path.resolve() for path in lineage.folders}
    others = [p for p in folder.glob(f"**/{LOG}") if p.parent.resolve() not in known]
    if others:
        sentences.append(f"note: other runs below {folder} are left out: {len(others)}")
    return sentences


if __name__ == "__main__":
    main()
