"""The synthetic task as TSV files in the layouts of V* and HRBench.

    python -m swift_thyme.testbed.tsv OUT_DIR --n 400 --seed 0

``plates_vstar.tsv`` has four options, of which A is right, as in V*; ``plates_hrbench.tsv`` has
each question four times, once for every rotation of its options. The picture is in the first of
them; the others name its row, as VLMEvalKit's files do. ``category`` is the plate's quadrant.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swift_thyme.core.images import base64_text
from swift_thyme.testbed.data import QUESTION
from swift_thyme.testbed.task import PICTURE_SIZE, Picture, make_picture

__all__ = ["TsvPaths", "make_tsvs", "main"]

_LETTERS = "ABCD"
_STREAM = 7
"""Keeps these pictures apart from those of ``data.picture_rng`` with the same seed."""


class TsvPaths(NamedTuple):
    """Where the files were written."""

    vstar: Path
    hrbench: Path


def _picture(seed: int, index: int) -> tuple[Picture, list[str]]:
    """Return a picture and four different numbers, the right one first."""
    rng = np.random.default_rng([seed, _STREAM, index])
    picture = make_picture(rng)
    others = [str(n) for n in rng.permutation(np.arange(10, 100)) if str(n) != picture.number]
    return picture, [picture.number, *others[:3]]


def _base64(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.image().save(buffer, format="JPEG", quality=95)
    return base64_text(buffer.getvalue())


def _quadrant(picture: Picture) -> str:
    middle = PICTURE_SIZE / 2
    x, y = (
        (picture.plate.left + picture.plate.right) / 2,
        (picture.plate.top + picture.plate.bottom) / 2,
    )
    return f"{'top' if y < middle else 'bottom'} {'left' if x < middle else 'right'}"


def _row(index: int, image: str, options: Sequence[str], picture: Picture) -> dict[str, Any]:
    return {
        "index": index,
        "image": image,
        "question": QUESTION,
        **dict(zip(_LETTERS, options, strict=True)),
        "answer": _LETTERS[list(options).index(picture.number)],
        "category": _quadrant(picture),
    }


def _vstar(seed: int, n: int) -> Iterator[dict[str, Any]]:
    for index in range(n):
        picture, options = _picture(seed, index)
        yield _row(index, _base64(picture), options, picture)


def _hrbench(seed: int, n: int) -> Iterator[dict[str, Any]]:
    for index in range(n):
        question, turn = divmod(index, 4)
        picture, options = _picture(seed, question)
        image = str(index - turn) if turn else _base64(picture)
        rotated = [*options[-turn:], *options[:-turn]] if turn else options
        yield {**_row(index, image, rotated, picture), "cycle_category": turn}


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), delimiter="\t", lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
    return path


def make_tsvs(out_dir: str | Path, n: int, seed: int = 0) -> TsvPaths:
    """Write both files with ``n`` rows each; everything that varies is a function of the seed."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    return TsvPaths(
        _write(out / "plates_vstar.tsv", _vstar(seed, n)),
        _write(out / "plates_hrbench.tsv", _hrbench(seed, n)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files from the command line."""
    parser = argparse.ArgumentParser(description=make_tsvs.__doc__)
    parser.add_argument("out_dir", help="folder to write into")
    parser.add_argument("--n", type=int, default=400, help="rows of each file")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that varies")
    args = parser.parse_args(argv)
    make_tsvs(args.out_dir, args.n, args.seed)


if __name__ == "__main__":
    main()
