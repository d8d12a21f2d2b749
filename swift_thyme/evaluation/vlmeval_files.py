"""Predictions in VLMEvalKit's layout: ``MODEL/MODEL_DATASET.tsv`` and ``.xlsx``.

The columns are those of the file without its images, and ``prediction``. Options were shown in
another order; a prediction that picks one holds its letter in the file, and any other answer stands
there as it is.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from swift_thyme.evaluation.arms import OWN, Arm
from swift_thyme.evaluation.outcome import Outcome
from swift_thyme.evaluation.tsv import Dataset

__all__ = ["write_predictions"]

_NOT_IN_XLSX = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def write_predictions(
    folder: Path, dataset: Dataset, model_name: str, found: Sequence[Outcome]
) -> list[Path]:
    """Write the predictions of each run and arm; return the files.

    Args:
        folder: Where the folders of the models are.
        dataset: The file that was evaluated.
        model_name: The model. Later runs and the arms without the tool add to the name.
        found: The outcomes.
    """
    files = []
    for arm in OWN:
        for run in sorted({o.job.run for o in found if o.job.arm is arm}):
            name = model_name + ("" if arm is Arm.TOOLS else f"-{arm.value}")
            name += f"-run{run}" if run > 1 else ""
            target = folder / name / f"{name}_{dataset.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            columns = [*dataset.columns, "prediction"]
            rows = [
                [o.job.item.fields[column] for column in dataset.columns] + [o.match.prediction]
                for o in found
                if o.job.arm is arm and o.job.run == run
            ]
            files.append(_write_tsv(target.parent / f"{target.name}.tsv", columns, rows))
            if importlib.util.find_spec("openpyxl") is not None:
                files.append(_write_xlsx(target.parent / f"{target.name}.xlsx", columns, rows))
    return files


def _write_tsv(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([columns, *rows])
    return path


def _write_xlsx(path: Path, columns: list[str], rows: list[list[str]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for row in [columns, *rows]:
        # Numbers stay numbers, so that the index is read back as VLMEvalKit wrote it.
        sheet.append([_cell(name, value) for name, value in zip(columns, row, strict=True)])
    book.save(path)
    return path


def _cell(column: str, value: str) -> str | int:
    if column == "index" and value.isascii() and value.isdigit():
        return int(value)
    return _NOT_IN_XLSX.sub("", value)[:32767]
