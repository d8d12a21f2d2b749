"""Rows and files of the synthetic task, in the formats that Thyme's recipe reads.

This module owns the texts of the testbed (system prompt, question, demonstration) and the data
set on disk. Pictures come from ``task``; how a row is encoded is ms-swift's business.

A row of ``sft.jsonl`` shows one whole assistant turn: where to look, a program that crops and
enlarges, the returned image, the answer. The returned image is made by running that program. The
windows of the demonstrations deviate from the plate on purpose (``spread_px``), so that a model
that imitates them well still has something to gain from reinforcement learning.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CODE_CLOSE,
    CODE_OPEN,
    IMAGE_TAG,
    OUTPUT_CLOSE,
    OUTPUT_DIR,
    OUTPUT_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    build_user_prompt,
)
from swift_thyme.testbed.task import (
    PICTURE_SIZE,
    VIEW_SIZE,
    Box,
    Picture,
    choose_window,
    make_picture,
)

__all__ = [
    "QUESTION",
    "SYSTEM_PROMPT",
    "DEFAULT_SPREAD_PX",
    "DatasetPaths",
    "locate_sentence",
    "read_sentence",
    "demonstration_code",
    "demonstration",
    "picture_rng",
    "make_dataset",
    "main",
]

QUESTION = "What number is on the yellow plate?"

SYSTEM_PROMPT = (
    f"You may write Python between {CODE_OPEN} and {CODE_CLOSE} to crop or enlarge the image. "
    f"It runs in a sandbox, and its output comes back in {OUTPUT_OPEN}. "
    "Print the processed_path of an image that you save."
)

DEFAULT_SPREAD_PX = 24.0
"""Standard deviation (pixels, each axis) of demonstrated windows from the plate's centre."""

_SPLITS = ("sft", "rl", "eval")
_NAME_DIGITS = 8
_PROCESSED_PATH = f"{OUTPUT_DIR}crop.png"


class DatasetPaths(NamedTuple):
    """Where ``make_dataset`` wrote its rows."""

    sft: Path
    rl: Path
    eval: Path


def locate_sentence(window: Box) -> str:
    """Return the sentence that names the window to look at."""
    return f"The plate is near ({', '.join(str(v) for v in window)})."


def read_sentence(number: str) -> str:
    """Return the sentence that spells the digits one by one."""
    return f"The digits are {' and '.join(number)}."


def demonstration_code(window: Box) -> str:
    """Return the demonstrated program: crop the window, enlarge it, save it, print its path."""
    box = ", ".join(str(v) for v in window)
    return (
        "image = Image.open(image_path)\n"
        f"crop = image.crop(({box})).resize(({VIEW_SIZE}, {VIEW_SIZE}))\n"
        f'processed_path = "{_PROCESSED_PATH}"\n'
        "crop.save(processed_path)\n"
        "print(processed_path)"
    )


def demonstration(window: Box, number: str) -> str:
    """Return the demonstrated assistant turn, with one ``<image>`` for the returned crop."""
    return (
        f"{THINK_OPEN}{locate_sentence(window)} "
        f"{CODE_OPEN}\n```python\n{demonstration_code(window)}\n```\n{CODE_CLOSE}"
        f"{OUTPUT_OPEN}{IMAGE_TAG}{OUTPUT_CLOSE}"
        f"{read_sentence(number)}{THINK_CLOSE}\n{ANSWER_OPEN}{number}{ANSWER_CLOSE}"
    )


def picture_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the generator of one picture; no two splits share one.

    Args:
        seed: Seed of the data set.
        split: "sft", "rl" or "eval".
        index: Number of the picture in its split.

    Raises:
        DataError: If there is no such split.
    """
    if split not in _SPLITS:
        raise DataError(f"split must be one of {_SPLITS}, not {split!r}")
    return np.random.default_rng([seed, _SPLITS.index(split), index])


def _run_demonstration(code: str, image_path: Path, folder: Path) -> bytes:
    """Return the image that a demonstrated program saves."""
    # This is our own program, not a model's: it runs here, with its output file renamed.
    with tempfile.TemporaryDirectory(dir=folder) as own:
        target = Path(own, "crop.png")
        program = code.replace(json.dumps(_PROCESSED_PATH), repr(str(target)))
        program = program.replace("print(processed_path)", "")
        exec(program, {"Image": Image, "image_path": str(image_path)})
        return target.read_bytes()


class _Pictures:
    """Writes pictures under names that say nothing of how they were made.

    Code in the sandbox can read this package. With a number in the name it could draw the picture
    again and take the answer from there. The name is a hash of the content, so it says what the
    content says; it has digits alone, as the names have that the tiny model was trained with.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, str] = {}

    def write(self, data: bytes, suffix: str) -> Path:
        """Write a picture and return its path; equal pictures share one."""
        digest = hashlib.sha256(data).hexdigest()
        digits = f"{int(digest, 16):078d}"
        length = _NAME_DIGITS
        while self._digests.setdefault(name := f"{digits[-length:]}{suffix}", digest) != digest:
            length += 1  # another picture has these digits too
        path = self._folder / name
        path.write_bytes(data)
        return path


def _rl_row(picture: Picture, path: Path) -> dict[str, Any]:
    prompt = build_user_prompt(QUESTION, str(path), (PICTURE_SIZE, PICTURE_SIZE))
    return {
        "messages": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": prompt},
        ],
        "images": [str(path)],
        "solution": picture.number,
        "question": QUESTION,
    }


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def make_dataset(
    out_dir: str | Path,
    n_sft: int,
    n_rl: int,
    n_eval: int,
    seed: int = 0,
    *,
    spread_px: float = DEFAULT_SPREAD_PX,
) -> DatasetPaths:
    """Write pictures, ``sft.jsonl``, ``rl.jsonl`` and ``eval.jsonl``.

    The three splits share no picture, and a picture's name is a hash of its content. Rows of
    ``rl.jsonl`` and ``eval.jsonl`` also hold ``plate``, the plate's box, with which localisation
    can be measured.

    Args:
        out_dir: Folder to write into (made if missing; equal names are overwritten).
        n_sft: Number of demonstrations.
        n_rl: Number of rows for reinforcement learning.
        n_eval: Number of rows for evaluation.
        seed: Everything that varies is a function of it.
        spread_px: Deviation of the demonstrated windows, see ``choose_window``.

    Raises:
        DataError: If a count is negative.
    """
    if min(n_sft, n_rl, n_eval) < 0:
        raise DataError(f"row counts must not be negative: {n_sft}, {n_rl}, {n_eval}")
    out = Path(out_dir).resolve()
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _Pictures(folder)
    written = []
    for split, count in zip(_SPLITS, (n_sft, n_rl, n_eval), strict=True):
        rows = []
        for index in range(count):
            rng = picture_rng(seed, split, index)
            picture = make_picture(rng)
            buffer = io.BytesIO()
            picture.image().save(buffer, "JPEG", quality=95)
            path = pictures.write(buffer.getvalue(), ".jpg")
            row = _rl_row(picture, path)
            if split == "sft":
                window = choose_window(picture.plate, rng, spread_px)
                shown = _run_demonstration(demonstration_code(window), path, out)
                crop = pictures.write(shown, ".png")
                answer = {"role": "assistant", "content": demonstration(window, picture.number)}
                rows.append(
                    {
                        "messages": [*row["messages"], answer],
                        "images": [str(path), str(crop)],
                    }
                )
            else:
                rows.append({**row, "plate": list(picture.plate)})
        written.append(_write_rows(out / f"{split}.jsonl", rows))
    return DatasetPaths(*written)


def main(argv: Sequence[str] | None = None) -> None:
    """Write a data set from the command line (``python -m swift_thyme.testbed.data OUT_DIR``)."""
    parser = argparse.ArgumentParser(description=make_dataset.__doc__)
    parser.add_argument("out_dir", help="folder to write into")
    parser.add_argument("--n-sft", type=int, default=512, help="demonstrations")
    parser.add_argument("--n-rl", type=int, default=512, help="rows for reinforcement learning")
    parser.add_argument("--n-eval", type=int, default=256, help="rows for evaluation")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that varies")
    parser.add_argument(
        "--spread-px",
        type=float,
        default=DEFAULT_SPREAD_PX,
        help="deviation of the demonstrated windows from the plate (pixels)",
    )
    args = parser.parse_args(argv)
    make_dataset(
        args.out_dir, args.n_sft, args.n_rl, args.n_eval, args.seed, spread_px=args.spread_px
    )


if __name__ == "__main__":
    main()
