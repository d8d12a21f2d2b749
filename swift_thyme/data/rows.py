"""One raw row to one output row, for both kinds of job.

A row is built in two steps, so that a row that is rejected leaves nothing behind: first everything
is checked and its pictures are decoded in memory; then, when nothing can go wrong any more, they
are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_thyme.core.protocol import IMAGE_TAG, build_user_prompt
from swift_thyme.data.job_options import JobOptions
from swift_thyme.data.pictures import ImageStore, normalise, raw_bytes
from swift_thyme.data.prompts import quoted_paths, set_quoted_images, with_image_tags
from swift_thyme.data.reasons import Reason, RowRejected
from swift_thyme.data.response import (
    check_response,
    check_special_tokens,
    output_texts,
    replace_paths,
    tidy,
)

__all__ = ["COLUMNS", "BuiltRow", "StoredImage", "build_row"]

_IMAGE_COLUMNS = ("image", "images", "image_path")
_ANSWER_COLUMNS = ("answer", "solution")
_OPTION = re.compile(r"[A-Z]")

COLUMNS = {
    "sft": (*_IMAGE_COLUMNS, "question", "response"),
    "rl": (
        *_IMAGE_COLUMNS,
        "index",
        "question",
        "hint",
        *_ANSWER_COLUMNS,
        *(chr(code) for code in range(ord("A"), ord("Z") + 1)),
    ),
}
"""Columns that a job reads."""


@dataclass
class StoredImage:
    """A picture of a row."""

    path: Path
    """Where it is, or will be."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    data: bytes | None
    """What is to be stored; None where it is stored already."""
    source: str | None
    """Path that the row called it by."""


@dataclass
class BuiltRow:
    """A row that passed every check."""

    output: dict[str, Any]
    """What is written."""
    images: list[StoredImage] = field(default_factory=list)
    """Its pictures, in order; to be stored before the row is written."""


def build_row(
    values: Mapping[str, Any], options: JobOptions, root: Path, store: ImageStore
) -> BuiltRow:
    """Return the output row of a raw row.

    Args:
        values: Its columns.
        options: The job's.
        root: Folder that relative image paths start from.
        store: Tells which pictures are stored already.

    Raises:
        RowRejected: The row is left out.
    """
    build = _sft_row if options.kind == "sft" else _rl_row
    return build(values, options, root, store)


def _text(values: Mapping[str, Any], names: Sequence[str], empty: Reason) -> str:
    name = next((n for n in names if values.get(n) is not None), None)
    if name is None:
        raise RowRejected(Reason.MISSING_COLUMN, f"no {' or '.join(names)}")
    value = values[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RowRejected(Reason.WRONG_TYPE, f"{name} is of type {type(value).__name__}")
    if not value.replace(IMAGE_TAG, "").strip():
        raise RowRejected(empty, f"{name} is {value[:40]!r}")
    return value


def _image_values(values: Mapping[str, Any]) -> list[Any]:
    value = next((values[n] for n in _IMAGE_COLUMNS if values.get(n) not in (None, "")), None)
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("["):
        # VLMEvalKit writes several images as the text of a list.
        try:
            value = json.loads(value.replace("'", '"'))
        except ValueError as error:
            raise RowRejected(Reason.WRONG_TYPE, f"image begins with {value[:40]!r}") from error
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _load_images(
    values: Mapping[str, Any], options: JobOptions, root: Path, store: ImageStore
) -> list[StoredImage]:
    images = []
    for number, value in enumerate(_image_values(values), 1):
        name = f"image {number}"
        data, source = raw_bytes(value, root, name)
        path = store.path(data)
        size = store.size(path) if data else None
        if size is not None:
            images.append(StoredImage(path, *size, None, source))
            continue
        picture = normalise(data, options.max_megapixels * 1e6, name)
        images.append(StoredImage(path, picture.width, picture.height, picture.data, source))
    return images


def _sft_row(
    values: Mapping[str, Any], options: JobOptions, root: Path, store: ImageStore
) -> BuiltRow:
    question = _text(values, ("question",), Reason.EMPTY_QUESTION)
    response = _text(values, ("response",), Reason.EMPTY_RESPONSE)
    check_special_tokens(question, "the question")
    response = tidy(response)
    check_response(response)
    n_returned = sum(text.count(IMAGE_TAG) for text in output_texts(response))
    question = with_image_tags(question, len(_image_values(values)), n_returned)
    images = _load_images(values, options, root, store)
    own = images[: len(images) - n_returned]
    quoted = quoted_paths(question)
    question = set_quoted_images(question, [(str(i.path), i.width, i.height) for i in own])
    moved = [
        ({path for path in (quoted.get(number), image.source) if path}, str(image.path))
        for number, image in enumerate(own, 1)
    ]
    response = replace_paths(response, moved)
    output: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": response},
        ]
    }
    if images:
        output["images"] = [str(image.path) for image in images]
    return BuiltRow(output, images)


def _rl_row(
    values: Mapping[str, Any], options: JobOptions, root: Path, store: ImageStore
) -> BuiltRow:
    question = _text(values, ("question",), Reason.EMPTY_QUESTION)
    solution = _text(values, _ANSWER_COLUMNS, Reason.EMPTY_ANSWER).strip()
    question = _with_options(question.replace(IMAGE_TAG, "").strip(), values)
    check_special_tokens(question, "the question")
    check_special_tokens(solution, "the answer")
    if not _image_values(values):
        raise RowRejected(Reason.NO_IMAGE, "a prompt of this recipe names an image")
    images = _load_images(values, options, root, store)
    (path, size), *others = [(str(image.path), (image.width, image.height)) for image in images]
    prompt = build_user_prompt(question, path, size, others)
    messages = [{"role": "user", "content": prompt}]
    if options.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": options.system_prompt})
    output = {
        "messages": messages,
        "images": [str(image.path) for image in images],
        "solution": solution,
        "question": question,
    }
    return BuiltRow(output, images)


def _with_options(question: str, values: Mapping[str, Any]) -> str:
    """Return the question with its hint before it and its options, one per line, after it."""
    options = []
    for name in sorted(n for n in values if _OPTION.fullmatch(n)):
        # pandas writes an absent option of a question with fewer as this text.
        if values[name] is not None and str(values[name]).strip().lower() not in ("", "nan"):
            options.append(f"{name}. {str(values[name]).strip()}")
    hint = values.get("hint")
    parts = [str(hint).strip()] if hint and str(hint).strip().lower() != "nan" else []
    return "\n".join([*parts, question, *options])
