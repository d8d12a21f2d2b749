"""The replies of another model to the plain prompt, taken from the folder of its own evaluation.

The published tables compare a tool-using model with the model that it was made of, asked plainly.
That one is evaluated once, and any number of runs are compared with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from swift_thyme.answers.rules import MathsCheck
from swift_thyme.core.errors import DataError
from swift_thyme.core.trajectory_files import TrajectoryRecord, read_trajectories
from swift_thyme.evaluation.arms import Arm
from swift_thyme.evaluation.matching import match
from swift_thyme.evaluation.outcome import Outcome
from swift_thyme.evaluation.run import Evaluation, Job, changes, read_configuration

__all__ = ["base_model", "base_outcomes", "check_base"]

_ASKED = ("data_sha256", "option_order", "plain_prompt", "prompt", "seed", "shuffle")
"""What decides about the plain prompts; models and sampling may differ."""


def check_base(evaluation: Evaluation, base: Path) -> Path:
    """Check that another model was asked the same questions, before anything is run.

    Args:
        evaluation: What its replies are to be compared with.
        base: The ``--out`` of the other evaluation; of several files each has a folder there.

    Returns:
        The folder of this file.

    Raises:
        DataError: There are no such replies; the message says why.
    """
    inside = base / evaluation.dataset.name
    folder = inside if (inside / "run.json").exists() else base
    known = read_configuration(folder)
    if not known or not _plain_replies(folder):
        raise DataError(
            f"--base {base}: holds no reply to the plain prompt for {evaluation.dataset.name}; "
            f"make it by thyme eval --model BASE --tools plain --out {base}, with the same --data"
        )
    changed = changes(known, evaluation.configuration, _ASKED)
    if changed:
        raise DataError(f"--base {folder}: other questions were asked there ({changed})")
    return folder


def _plain_replies(folder: Path) -> dict[str, TrajectoryRecord]:
    path = folder / "trajectories.jsonl"
    if not path.exists():
        return {}
    end = f"/{Arm.PLAIN.value}"
    return {record.id: record for record in read_trajectories(path) if record.id.endswith(end)}


def base_model(folder: Path) -> str:
    """Return the model whose replies a folder holds; of an endpoint its address."""
    known = read_configuration(folder)
    return str(known.get("model.model") or known.get("model.endpoint") or "unknown")


def base_outcomes(
    evaluation: Evaluation, folder: Path, jobs: Sequence[Job], maths: MathsCheck | None = None
) -> list[Outcome]:
    """Return what the other model's plain replies are worth, by rules alone.

    Args:
        evaluation: What they are compared with.
        folder: What :func:`check_base` returned.
        jobs: The rows and runs that are wanted, in the arm ``BASE``.
        maths: Compares expressions of open questions.

    Raises:
        DataError: A line cannot be read.
    """
    records = _plain_replies(folder)
    # A judge's verdict is kept by the record's name: that of one model is none of another's.
    configuration = json.dumps(read_configuration(folder), sort_keys=True)
    mark = hashlib.sha256(configuration.encode()).hexdigest()[:8]
    found = []
    for job in jobs:
        record = records.get(Job(job.item, job.run, Arm.PLAIN).id)
        if record is not None:
            name = f"{evaluation.dataset.name} {job.arm.value}"
            record = dataclasses.replace(record, id=f"{job.id}-{mark}", run=name)
            shown = evaluation.show(job.item, job.run)
            found.append(Outcome(job, record, match(shown, record.answer, maths)))
    return found
