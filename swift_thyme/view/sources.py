"""Finds trajectories at a path and reads them, whatever wrote them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from swift_thyme.core.errors import DataError
from swift_thyme.core.trajectory_files import TrajectoryRecord, read_trajectories, trajectory_files
from swift_thyme.view.completions import is_completions_line, read_completions
from swift_thyme.view.run_log import LOG, Lineage, drop_repeated, lineage_of

__all__ = ["Loaded", "load"]

COMPLETIONS = "completions.jsonl"
EVALUATION = "eval"
"""The run of a trajectory that was kept from an evaluation during training."""

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
    lineage: Lineage | None = None
    """The training run that it belongs to, if it is known."""


class _Source(NamedTuple):
    file: Path
    text_only: bool
    named: bool
    """Whether the user named the file itself."""


def load(paths: Sequence[str | Path]) -> list[Loaded]:
    """Read all trajectories at the paths.

    Where a run kept trajectories, its ``completions.jsonl`` is not read as well: it holds the same
    samples without their images. Name that file itself to see all of its text. With several runs
    the name of each run's folder is put before ``run``. A run that was resumed in a folder of its
    own is one run, with the name of its newest folder; what was trained again is left out, unless
    its file was named.

    Args:
        paths: Files or folders.

    Raises:
        DataError: There is nothing at a path, or a file cannot be read; the message says what was
            looked for.
    """
    found: list[_Source] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.is_file():
            found.append(_Source(path, _is_completions(path), named=True))
            continue
        files = _in_folder(path)
        if not files:
            raise DataError(f"{path}: no trajectories there; {LOOKED_FOR}")
        found += [_Source(file, text_only, named=False) for file, text_only in files]
    runs = _lineages([_run_folder(source.file) for source in found])
    labels = [_label(source.file, runs) for source in found]
    several = len(set(labels)) > 1
    loaded: list[Loaded] = []
    again = _evaluated_again(found, runs)
    for source, label in zip(found, labels, strict=True):
        lineage = runs.get(_run_folder(source.file))
        for record in _records(source, lineage):
            if (source.file, record.step) in again and record.run == EVALUATION:
                continue
            if several:
                run = f"{label} / {record.run}" if record.run else label
                record = dataclasses.replace(record, run=run)
            loaded.append(Loaded(record, source.file.parent, source.text_only, lineage))
    if not loaded:
        names = ", ".join(str(source.file) for source in found)
        raise DataError(f"no finished trajectory in {names} yet")
    return loaded


def _evaluated_again(
    sources: Sequence[_Source], runs: Mapping[Path, Lineage]
) -> set[tuple[Path, int | None]]:
    """Return files and steps whose evaluation was made again when the run was resumed there.

    ``--eval_on_start true`` evaluates a checkpoint that was evaluated before.
    """
    again = set()
    kept = [s for s in sources if not s.named and not s.text_only and _run_folder(s.file) in runs]
    for source in kept:
        folder = _run_folder(source.file)
        folders = runs[folder].folders
        earlier = set(folders[: folders.index(folder)])
        if not earlier:
            continue
        records = read_trajectories(source.file)
        first = next((record for record in records if record.run == EVALUATION), None)
        if first is not None:
            again |= {(s.file, first.step) for s in kept if _run_folder(s.file) in earlier}
    return again


def _records(source: _Source, lineage: Lineage | None) -> Iterable[TrajectoryRecord]:
    """Read a file; of a training run without the steps that were trained again later."""
    reader = read_completions if source.text_only else read_trajectories
    records: Iterable[TrajectoryRecord] = reader(source.file)
    if lineage is None or source.named:
        return records
    last = lineage.last_step(_run_folder(source.file))
    if last is not None:
        records = [r for r in records if r.step is None or r.step <= last]
    records = list(records)
    if any(record.step is None for record in records):
        return records
    return drop_repeated(records, lambda r: (r.step or 0, r.run == EVALUATION), single=False)


def _lineages(folders: Iterable[Path]) -> dict[Path, Lineage]:
    """Return the run of each output folder of a training job; the newest run that holds it."""
    runs: dict[Path, Lineage] = {}
    logs = {folder for folder in folders if (folder / LOG).is_file()}
    for folder in sorted(logs, key=lambda folder: (folder / LOG).stat().st_mtime):
        lineage = lineage_of(folder)
        for known in lineage.folders:
            # Copying a folder changes its dates; the longer history is that of the newer one.
            if known not in runs or len(runs[known].folders) <= len(lineage.folders):
                runs[known] = lineage
    return runs


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


def _run_folder(file: Path) -> Path:
    """Return the folder of the run that wrote a file."""
    folder = file.resolve().parent
    while _INNER_FOLDER.fullmatch(folder.name) and folder.parent != folder:
        folder = folder.parent
    return folder


def _label(file: Path, runs: Mapping[Path, Lineage]) -> str:
    """Return the name of the run's folder, the newest one where it has several."""
    folder = _run_folder(file)
    return runs[folder].folders[-1].name if folder in runs else folder.name
