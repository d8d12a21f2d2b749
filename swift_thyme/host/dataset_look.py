"""A quick look at the rows of a job: how large their pictures are, how many, and how long the text.

It reads headers of pictures and no pixel, and of a large set a part, evenly spread. Rows and files
that cannot be read are left to the checks that name them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import named_path
from swift_thyme.core.pictures import header

__all__ = ["DatasetLook", "look_at_dataset"]

_MOST_ROWS = 20_000
_MOST_CHARS = 1 << 28
"""Rows may hold their pictures."""
_MOST_FILES = 500


@dataclass(frozen=True, slots=True)
class DatasetLook:
    """What was seen."""

    rows: int
    """Rows that were read."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of the pictures that were looked at, upright."""
    most_images: int
    """Images of one row."""
    longest_text: int
    """Characters of the messages of one row."""


def look_at_dataset(names: Sequence[str]) -> DatasetLook | None:
    """Look at the rows of local JSON lines files.

    Args:
        names: What ``--dataset`` got.

    Returns:
        None where none of them is such a file.
    """
    files: dict[str, None] = {}
    rows = most_images = longest_text = 0
    for row in islice(_rows(names), _MOST_ROWS):
        rows += 1
        images = row.get("images") or []
        images = images if isinstance(images, list) else [images]
        most_images = max(most_images, len(images))
        files.update((path, None) for path in map(named_path, images) if path is not None)
        messages = row.get("messages")
        if isinstance(messages, list):
            said = (m.get("content") for m in messages if isinstance(m, dict))
            longest_text = max(longest_text, sum(len(t) for t in said if isinstance(t, str)))
    if not rows:
        return None
    step = max(1, len(files) // _MOST_FILES)
    sizes = [size for path in list(files)[::step] if (size := _size(path)) is not None]
    return DatasetLook(rows, tuple(sizes), most_images, longest_text)


def _rows(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    chars = 0
    for name in names:
        path = Path(name.partition("#")[0])
        if path.suffix != ".jsonl" or not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                chars += len(line)
                if chars > _MOST_CHARS:
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row


def _size(path: str) -> tuple[int, int] | None:
    try:
        return header(Path(path)).size
    except (DataError, OSError):
        return None
