"""Finds trajectories at a path and reads them, whatever wrote them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from swift_thyme.core.errors import DataError
from swift_thyme.core.trajectory_files import TrajectoryRecord, read_trajectories, trajectory_files
from swift_thyme.view.completions import is_completions_line, read_completions

__all__ = ["Loaded", "load"]

COMPLETIONS = "completions.jsonl"

LOOKED_FOR = (
    "looked at any depth for trajectories*.jsonl (kept by a training run with --O3 true, "
    "by thyme ask --save and by thyme eval) and for completions.jsonl (a GRPO run of ms-swift "
    "with --log_completions true)"
)

_INNER_FOLDER = re.compile(r"trajectories|rank\d+")


class Loaded(NamedTuple):
    """A trajectory and where its image files are."""

    record: TrajectoryRecord
    folder: Path
    """Folder that the record's image paths are relative to."""
    text_only: bool = False
    """Whether it comes from a log that keeps no images."""


def load(paths: Sequence[str | Path]) -> list[Loaded]:
    """Read all trajectories at the paths.

    Where a run kept trajectories, its ``completions.jsonl`` is not read as well: it holds the same
    samples without their images. Name that file itself to see all of its text. With several runs
    the name of each run's folder is put before ``run``.

    Args:
        paths: Files or folders.

    Raises:
        DataError: There is nothing at a path, or a file cannot be read; the message says what was
            looked for.
    """
    found: list[tuple[Path, str, bool]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        files = [(path, _is_completions(path))] if path.is_file() else _in_folder(path)
        if not files:
            raise DataError(f"{path}: no trajectories there; {LOOKED_FOR}")
        found += [(file, _label(file), text_only) for file, text_only in files]
    labels = {label for _, label, _ in found}
    loaded: list[Loaded] = []
    for file, label, text_only in found:
        records: Iterable[TrajectoryRecord]
        records = read_completions(file) if text_only else read_trajectories(file)
        for record in records:
            if len(labels) > 1:
                run = f"{label} / {record.run}" if record.run else label
                record = dataclasses.replace(record, run=run)
            loaded.append(Loaded(record, file.parent, text_only))
    if not loaded:
        names = ", ".join(str(file) for file, _, _ in found)
        raise DataError(f"no finished trajectory in {names} yet")
    return loaded


def _in_folder(folder: Path) -> list[tuple[Path, bool]]:
    try:
        kept = trajectory_files(folder)
    except DataError:
        kept = []
    logs = [
        log
        for log in sorted(folder.rglob(COMPLETIONS))
        if not any(file.is_relative_to(log.parent) for file in kept)
    ]
    return [(file, False) for file in kept] + [(log, True) for log in logs]


def _is_completions(file: Path) -> bool:
    """Tell by its first line which kind of file this is.

    Raises:
        DataError: It is neither.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            first = next((line for line in lines if line.strip()), "")
        value = json.loads(first) if first else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a file of trajectories: {error}") from error
    if is_completions_line(value):
        return True
    if isinstance(value, dict) and "format" in value and "segments" in value:
        return False
    raise DataError(
        f"{file}: not a file of trajectories: its first line is neither a trajectory "
        "(`format`, `segments`) nor a table of ms-swift's completions (`step`, `prompt`, "
        "`completion`)"
    )


def _label(file: Path) -> str:
    """Return the name of the run's folder."""
    folder = file.resolve().parent
    while _INNER_FOLDER.fullmatch(folder.name) and folder.parent != folder:
        folder = folder.parent
    return folder.name
