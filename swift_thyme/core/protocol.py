"""The text protocol of Thyme: tags and prompts.

One assistant turn looks like this (Thyme sec. 3), with any number of code blocks::

    <think> ... <code>
    ```python
    ...
    ```
    </code><sandbox_output>...</sandbox_output> ... </think>
    <answer>...</answer>

:mod:`swift_thyme.core.reading` reads a completion. Running code is the sandbox's business, and
deciding when to go on is the trajectory's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "CODE_OPEN",
    "CODE_CLOSE",
    "OUTPUT_OPEN",
    "OUTPUT_CLOSE",
    "THINK_OPEN",
    "THINK_CLOSE",
    "ANSWER_OPEN",
    "ANSWER_CLOSE",
    "IMAGE_TAG",
    "PROTOCOL_TAGS",
    "STOP_STRINGS",
    "OUTPUT_DIR",
    "ImagePrompt",
    "build_user_prompt",
    "build_text_prompt",
    "parse_user_prompt",
]

CODE_OPEN, CODE_CLOSE = "<code>", "</code>"
OUTPUT_OPEN, OUTPUT_CLOSE = "<sandbox_output>", "</sandbox_output>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
IMAGE_TAG = "<image>"

PROTOCOL_TAGS = (
    THINK_OPEN,
    THINK_CLOSE,
    CODE_OPEN,
    CODE_CLOSE,
    OUTPUT_OPEN,
    OUTPUT_CLOSE,
    ANSWER_OPEN,
    ANSWER_CLOSE,
)

STOP_STRINGS = (CODE_CLOSE, ANSWER_CLOSE)
"""Strings that end a turn: after the first code runs, after the second the trajectory is over."""

OUTPUT_DIR = "/mnt/data/temp_processed_images/"
"""Folder in which generated code saves its images."""

_IMAGE_PATH = re.compile(r'User Image Path:[ \t]*("(?:[^"\\]|\\.)*")')


class ImagePrompt(NamedTuple):
    """What a user prompt in the published format says about its image."""

    path: str
    """The path that generated code opens."""


_REPLY_FORMAT = (
    "Reply in this format: <think>your reasoning, with <code> blocks where they help</think>"
    "<answer>your final answer</answer>"
)


def build_user_prompt(
    question: str,
    image_path: str,
    image_size: tuple[int, int],
    more_images: Sequence[tuple[str, tuple[int, int]]] = (),
) -> str:
    """Return the user prompt for one image in the published format, or for several.

    Args:
        question: The question, without an ``<image>`` tag.
        image_path: Path from which the generated code reads the image.
        image_size: (width, height) in pixels of the file at that path.
        more_images: Path and size of each further image. The published format knows one image;
            the lines of the others are numbered from 2.
    """
    lines = [f"{IMAGE_TAG}\n" * (1 + len(more_images)) + question, ""]
    for number, (path, (width, height)) in enumerate(
        [(image_path, image_size), *more_images], start=1
    ):
        which = "" if number == 1 else f" {number}"
        lines.append(f"User Image Path{which}: {json.dumps(path, ensure_ascii=False)}")
        lines.append(f'User Image Size{which}: "{width}x{height}"')
    return "\n".join([*lines, "", _REPLY_FORMAT])


def build_text_prompt(question: str) -> str:
    """Return the user prompt for a question without an image."""
    return f"{question}\n\n{_REPLY_FORMAT}"


def parse_user_prompt(text: str) -> ImagePrompt | None:
    """Return the quoted User Image Path of a prompt, or None where it has none."""
    match = _IMAGE_PATH.search(text)
    if match is None:
        return None
    try:
        path = json.loads(match.group(1))
    except ValueError:
        path = match.group(1)[1:-1]
    return ImagePrompt(path=path)
