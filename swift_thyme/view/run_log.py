"""The metrics of a training run: one series of steps, however often the run was resumed.

ms-swift appends a line to ``logging.jsonl`` in the job's output folder for each logging step and
each evaluation. A job with ``--resume_from_checkpoint OLD/checkpoint-200`` logs into a folder of
its own (``v1-...``), or goes on in the old file with ``--add_version false``; either way it begins
after step 200, and what the old job had logged beyond is trained again. The later record of a step
wins. ``args.json`` beside the log says which checkpoint a job went on from.

This module reads; :mod:`swift_thyme.view.curves` says which metrics belong together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from swift_thyme.core.errors import DataError

__all__ = ["LOG", "Entry", "Lineage", "RunLog", "drop_repeated", "lineage_of", "read_log"]

LOG = "logging.jsonl"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
T = TypeVar("T")


class Entry(NamedTuple):
    """What was logged at one step."""

    step: int
    held_out: bool
    """Whether this is an evaluation."""
    values: Mapping[str, float]
    """Finite numbers by metric; names of an evaluation come without their ``eval_``."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The output folders of one run, in the order in which they were trained."""

    folders: tuple[Path, ...]
    """Resolved. The last one is the newest; those that the run was resumed from stand before it."""
    resumed_from: tuple[int | None, ...]
    """For each folder the step of the checkpoint that it went on from; None where it started anew
    or where that step is not known."""
    lost: Path | None = None
    """A folder that the first one went on from and that holds no log any more."""

    def last_step(self, folder: Path) -> int | None:
        """Return the last step of a folder that was not trained again; None says: all of them."""
        place = self.folders.index(folder)
        later = [step for step in self.resumed_from[place + 1 :] if step is not None]
        return min(later, default=None)


@dataclass(frozen=True, slots=True)
class RunLog:
    """The metrics of a run."""

    lineage: Lineage
    entries: tuple[Entry, ...]
    """By step; at one step training comes before the evaluation."""
    resumed_at: tuple[int, ...]
    """Steps after which the run was stopped and resumed, ascending."""

    @property
    def training(self) -> list[Entry]:
        """The logging steps of training."""
        return [entry for entry in self.entries if not entry.held_out]

    @property
    def evaluations(self) -> list[Entry]:
        """The evaluations."""
        return [entry for entry in self.entries if entry.held_out]


def lineage_of(folder: Path) -> Lineage:
    """Follow a run back from its newest output folder to where it first started.

    Args:
        folder: Output folder of a job, with ``logging.jsonl`` in it.
    """
    folder = folder.resolve()
    folders, resumed = [folder], [_resumed_from(folder)]
    lost = None
    while (before := resumed[0]) is not None:
        previous = _find(before.folder, folder)
        if previous is None:
            lost = before.folder
            break
        if previous in folders:
            break
        folders.insert(0, previous)
        resumed.insert(0, _resumed_from(previous))
    steps = tuple(item.step if item else None for item in resumed)
    return Lineage(tuple(folders), steps, lost)


class _Resumed(NamedTuple):
    folder: Path
    step: int | None


def _resumed_from(folder: Path) -> _Resumed | None:
    """Read off ``args.json`` which checkpoint a job went on from; None where it started anew."""
    try:
        arguments = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        checkpoint = arguments.get("resume_from_checkpoint")
        # Then ms-swift loads the weights alone and counts its steps from 0.
        anew = arguments.get("resume_only_model") and arguments.get("ignore_data_skip")
        if not isinstance(checkpoint, str) or not checkpoint or anew:
            return None
        # `last-checkpoint` is a link to the newest one.
        path = Path(checkpoint).resolve()
    except (OSError, ValueError, AttributeError):
        # A log without readable arguments still is a log.
        return None
    number = _CHECKPOINT.fullmatch(path.name)
    return _Resumed(path.parent, int(number[1]) if number else None)


def _find(folder: Path, newer: Path) -> Path | None:
    """Return where the folder of an earlier job is: at its place, or moved along with the newer."""
    places = (folder, newer.parent / folder.name)
    return next((place.resolve() for place in places if (place / LOG).is_file()), None)


def read_log(lineage: Lineage) -> RunLog:
    """Read the logs of a run as one.

    An unfinished last line, which a killed job leaves, is left out.

    Raises:
        DataError: A log cannot be read, or a line is no JSON object; the message names it.
    """
    entries: list[Entry] = []
    for folder in lineage.folders:
        for values in _lines(folder / LOG):
            entry = _entry(values, entries[-1].step if entries else 0)
            if entry is not None:
                entries.append(entry)
    kept = drop_repeated(entries, lambda entry: (entry.step, entry.held_out), single=True)
    resumed = {step for step in lineage.resumed_from if step is not None}
    inside = [step for step in sorted(resumed) if kept and kept[0].step <= step <= kept[-1].step]
    return RunLog(lineage, tuple(kept), tuple(inside))


def drop_repeated(
    items: Iterable[T], place: Callable[[T], tuple[int, bool]], *, single: bool
) -> list[T]:
    """Leave out what was recorded before its step was trained again.

    Args:
        items: In the order in which they were recorded.
        place: Gives the step of an item and whether it comes from an evaluation, which follows the
            training of its step.
        single: Whether a step has one item. Else neighbours of one step belong together.
    """
    kept: list[T] = []
    places: list[tuple[int, bool]] = []
    for item in items:
        here = place(item)
        if places and (here < places[-1] or (single and here == places[-1])):
            while places and here <= places[-1]:
                places.pop()
                kept.pop()
        kept.append(item)
        places.append(here)
    return kept


def _lines(log: Path) -> list[Mapping[str, Any]]:
    try:
        lines = log.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{log} cannot be read: {error}") from error
    values: list[Mapping[str, Any]] = []
    # What follows the last line break was being written when the job ended.
    for number, line in enumerate(lines[:-1], 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{log}:{number}: not JSON: {error}; remove the line") from error
        if not isinstance(value, dict):
            raise DataError(f"{log}:{number}: not an object; remove the line")
        values.append(value)
    return values


def _entry(line: Mapping[str, Any], last_step: int) -> Entry | None:
    """Return the metrics of a line; None for the lines that ms-swift ends a job with."""
    numbers = {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    held_out = "eval_reward" in numbers
    if not held_out and "reward" not in numbers:
        return None
    if held_out:
        numbers = {name.removeprefix("eval_"): value for name, value in numbers.items()}
    # "12/80". A log without it is counted.
    reached = str(line.get("global_step/max_steps", "")).partition("/")[0]
    step = int(reached) if reached.isdigit() else last_step + (not held_out)
    return Entry(step, held_out, numbers)
