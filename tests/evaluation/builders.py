"""Small TSV files."""

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.inference.builders import image_bytes

IMAGE = base64.b64encode(image_bytes()).decode()


def row(index: int, **cells: Any) -> dict[str, Any]:
    """Return a multiple-choice row whose right option is A."""
    return {
        "index": index,
        "image": IMAGE,
        "question": f"Question {index}?",
        "A": "red",
        "B": "green",
        "C": "blue",
        "D": "none of the above",
        "answer": "A",
        "category": "even" if index % 2 == 0 else "odd",
        **cells,
    }


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
