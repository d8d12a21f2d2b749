"""One raw row to one output row, for both kinds of job.

A row is built in two steps, so that a row that is rejected leaves nothing behind: first everything
is checked and its pictures are decoded in memory; then, when nothing can go wrong any more, they
are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_thyme.core.protocol import IMAGE_TAG, build_user_prompt
from swift_thyme.data.job_options import JobOptions
from swift_thyme.data.option_order import AnswerBalance
from swift_thyme.data.pictures import ImageStore, normalise, raw_bytes
from swift_thyme.data.prompts import quoted_paths, set_quoted_images, with_image_tags
from swift_thyme.data.question import (
    ANSWER_COLUMNS,
    IMAGE_COLUMNS,
    OPTION_COLUMNS,
    Question,
    image_values,
    is_missing,
    read_question,
    text_cell,
)
from swift_thyme.data.reasons import Reason, RowRejected
from swift_thyme.data.response import (
    check_response,
    check_special_tokens,
    output_texts,
    replace_paths,
    tidy,
)

__all__ = ["COLUMNS", "BuiltRow", "RowPlace", "StoredImage", "build_row"]

COLUMNS = {
    "sft": (*IMAGE_COLUMNS, "question", "response"),
    "rl": (
        *IMAGE_COLUMNS,
        "index",
        "question",
        "hint",
        *ANSWER_COLUMNS,
        *OPTION_COLUMNS,
        "cycle_category",
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


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where a row stands among the rows of its job."""

    number: int
    """Number of the row in its file, from 1."""
    balance: AnswerBalance
    """Of the shard that it is in, whose rows are built in order."""


def build_row(
    values: Mapping[str, Any],
    options: JobOptions,
    root: Path,
    store: ImageStore,
    place: RowPlace,
) -> BuiltRow:
    """Return the output row of a raw row.

    Args:
        values: Its columns.
        options: The job's.
        root: Folder that relative image paths start from.
        store: Tells which pictures are stored already.
        place: Where the row stands.

    Raises:
        RowRejected: The row is left out.
    """
    if options.kind == "sft":
        return _sft_row(values, options, root, store)
    return _rl_row(values, options, root, store, place)


def _load_images(
    values: Mapping[str, Any], options: JobOptions, root: Path, store: ImageStore
) -> list[StoredImage]:
    images = []
    for number, value in enumerate(image_values(values), 1):
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
    question = text_cell(values, ("question",), Reason.EMPTY_QUESTION)
    response = text_cell(values, ("response",), Reason.EMPTY_RESPONSE)
    check_special_tokens(question, "the question")
    response = tidy(response)
    check_response(response)
    n_returned = sum(text.count(IMAGE_TAG) for text in output_texts(response))
    question = with_image_tags(question, len(image_values(values)), n_returned)
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
    values: Mapping[str, Any],
    options: JobOptions,
    root: Path,
    store: ImageStore,
    place: RowPlace,
) -> BuiltRow:
    asked = read_question(values)
    check_special_tokens(
        "\n".join([asked.hint, asked.text, *asked.options.values()]), "the question"
    )
    for answer in asked.references:
        check_special_tokens(answer, "the answer")
    if not image_values(values):
        raise RowRejected(Reason.NO_IMAGE, "a prompt of this recipe names an image")
    images = _load_images(values, options, root, store)
    # From here on the row is kept: only such rows count in the balance.
    question, solution = _worded(asked, values, options, place)
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


def _worded(
    asked: Question, values: Mapping[str, Any], options: JobOptions, place: RowPlace
) -> tuple[str, str | list[str]]:
    """Return the question with its hint before and its options after it, and the solution."""
    parts = [asked.hint] if asked.hint else []
    if not asked.options:
        several = len(asked.references) > 1
        solution = list(asked.references) if several else asked.references[0]
        return "\n".join([*parts, asked.text]), solution
    (answer,) = asked.references
    order = tuple(asked.options)
    # Files with every rotation of the options (HRBench) are balanced as they are.
    if options.shuffle and is_missing(values.get("cycle_category")):
        index = values.get("index")
        key = f"{options.seed}/1/{place.number if is_missing(index) else str(index).strip()}"
        order = place.balance.order(asked.options, asked.text, answer, key)
    letters = tuple(asked.options)
    listed = [f"{letters[i]}. {asked.options[letter]}" for i, letter in enumerate(order)]
    return "\n".join([*parts, asked.text, *listed]), letters[order.index(answer)]
