"""``completions.jsonl`` of an ms-swift GRPO run, read as trajectories: text only.

Each line holds one logging step, a list of values per column. The file knows neither images nor how
a block ended; what it lacks stays unknown here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.observation import says_failure
from swift_thyme.core.placeholders import TURN_END, TURN_START, show_images
from swift_thyme.core.reading import SpanKind, read
from swift_thyme.core.samples import read_samples
from swift_thyme.core.segment import Segment, SegmentKind, split_sampled_text
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryRecord

__all__ = ["is_completions_line", "read_completions", "split_completion"]

_MESSAGE = re.compile(
    rf"{re.escape(TURN_START)}(system|user)\n(.*?){re.escape(TURN_END)}", re.DOTALL
)
# Columns of ms-swift that hold numbers and are no rewards.
_NO_REWARDS = frozenset(
    {"step", "prompt", "completion", "solution", "advantages", "num_turns", "entropy"}
)


def is_completions_line(value: Any) -> bool:
    """Tell whether a JSON value is a line of ms-swift's ``completions.jsonl``."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), list) for name in ("step", "prompt", "completion")
    )


def split_completion(text: str) -> tuple[Segment[ImageRef], ...]:
    """Split a completion into what the model wrote and what the sandbox said.

    A model can write ``<sandbox_output>`` itself; text alone cannot tell.
    """
    segments: list[Segment[ImageRef]] = []
    position = 0
    for span in read(text).spans:
        if span.kind is not SpanKind.OUTPUT:
            continue
        sampled = split_sampled_text(text[position : span.start])
        segments += [Segment(kind, piece) for kind, piece in sampled]
        output = show_images(text[span.start : span.end])
        segments.append(Segment(SegmentKind.OBSERVATION, output))
        position = span.end
    sampled = split_sampled_text(text[position:])
    return (*segments, *(Segment(kind, piece) for kind, piece in sampled))


def read_completions(file: str | Path) -> Iterator[TrajectoryRecord]:
    """Yield the trajectories of a ``completions.jsonl``.

    Rows that ms-swift logged a second time (it writes its last rows again when a run ends, and
    after an evaluation) are left out. An unfinished last line is left out too.

    Raises:
        DataError: The file cannot be read, or a line is not of this form; the message names it.
    """
    path = Path(file)
    previous: list[tuple[Any, ...]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    # What follows the last line break was being written when the run ended.
    for number, line in enumerate(lines[:-1], 1):
        if not line.strip():
            continue
        try:
            table = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not is_completions_line(table):
            raise DataError(f"{path}, line {number}: no lists `step`, `prompt` and `completion`")
        columns = {
            name: values
            for name, values in table.items()
            if isinstance(values, list) and len(values) == len(table["completion"])
        }
        if "prompt" not in columns or "step" not in columns:
            raise DataError(f"{path}, line {number}: columns of different lengths")
        names = [name for name in columns if name != "step"]
        rows = [tuple(map(repr, row)) for row in zip(*(columns[n] for n in names), strict=True)]
        repeated = _overlap(previous, rows)
        previous = rows
        for index in range(repeated, len(rows)):
            row = {name: values[index] for name, values in columns.items()}
            yield _record(row, f"{number}-{index + 1}")


def _overlap(before: Sequence[Any], after: Sequence[Any]) -> int:
    """Return how many of the rows before, up to their end, open the rows after."""
    for size in range(min(len(before), len(after)), 0, -1):
        if list(before[-size:]) == list(after[:size]):
            return size
    return 0


def _record(row: Mapping[str, Any], identifier: str) -> TrajectoryRecord:
    completion, prompt = str(row["completion"]), str(row["prompt"])
    messages = dict(_MESSAGE.findall(prompt))
    user = show_images(messages.get("user", prompt)).strip()
    columns = {"messages": [[{"role": "user", "content": user}]]}
    if "solution" in row:
        columns["solution"] = [row["solution"]]
    (read,) = read_samples([completion], columns)
    segments = split_completion(completion)
    turns = row.get("num_turns")
    observations = [s.text for s in segments if s.kind is SegmentKind.OBSERVATION]
    # Only a real sandbox output begins another turn; one that the model wrote itself does not.
    ran = turns is None or turns > 1
    rewards = {name: _number(value) for name, value in row.items() if _is_reward(name, value)}
    step = str(row["step"])
    return TrajectoryRecord(
        id=f"{step}-{identifier}",
        question=read.question,
        segments=segments,
        step=int(step) if step.isdigit() else None,
        system=messages.get("system"),
        prompt=user,
        answer=read.answer,
        reference=read.references,
        tool_used=ran and any(not says_failure(text) for text in observations),
        rewards=rewards,
        turns=turns if isinstance(turns, int) else 0,
        meta={"advantage": _number(row["advantages"])} if "advantages" in row else {},
    )


def _is_reward(name: str, value: Any) -> bool:
    return name not in _NO_REWARDS and (value is None or isinstance(value, float))


def _number(value: Any) -> float | None:
    # ms-swift writes a reward that could not be had as NaN.
    return float(value) if isinstance(value, (int, float)) and value == value else None
