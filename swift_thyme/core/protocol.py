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
    "image_lines",
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

STOP_STRINGS = (CODE_CLOSE, ANSWER_CLOSE, "</Code>", "</Answer>", "</CODE>", "</ANSWER>")
"""Strings at which engines end a turn: after ``</code>`` code runs, after ``</answer>`` the
trajectory is over.

Tags match in any case, but engines compare strings as they are. Each string costs an engine a
search per token, so these are the usual three of the 80 spellings. ``core.turn_end`` ends a turn at
all of them; with the others only the tokens after the tag are sampled in vain.
"""

OUTPUT_DIR = "/mnt/data/temp_processed_images/"
"""Folder in which generated code saves its images."""

_IMAGE_PATH = re.compile(
    r"""User\ Image\ Path (?:[ \t]+(?P<number>\d{1,4}))? ["*]* :[ \t*]*
    (?P<quoted> "(?:[^"\\\n]|\\.)*" | '[^'\n]*' )""",
    re.VERBOSE,
)


class ImagePrompt(NamedTuple):
    """What a user prompt in the published format says about its images."""

    paths: tuple[str, ...]
    """The paths that generated code opens, one or more, in the order of their numbers."""

    @property
    def path(self) -> str:
        """The path of the first image."""
        return self.paths[0]


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
    for number, (path, size) in enumerate([(image_path, image_size), *more_images], start=1):
        lines.append(image_lines(number, path, *size))
    return "\n".join([*lines, "", _REPLY_FORMAT])


def image_lines(number: int, path: str, width: int, height: int) -> str:
    """Return the two lines of a prompt that quote an image; the first one has no number."""
    which = "" if number == 1 else f" {number}"
    quoted = json.dumps(path, ensure_ascii=False)
    return f'User Image Path{which}: {quoted}\nUser Image Size{which}: "{width}x{height}"'


def build_text_prompt(question: str) -> str:
    """Return the user prompt for a question without an image."""
    return f"{question}\n\n{_REPLY_FORMAT}"


def parse_user_prompt(text: str) -> ImagePrompt | None:
    """Return the quoted image paths of a prompt, or None where it has none.

    ``User Image Path`` without a number is the first one; further images have ``User Image Path 2``
    and so on. Paths with the same number keep their order.
    """
    numbered = []
    for match in _IMAGE_PATH.finditer(text):
        quoted = match["quoted"]
        try:
            path = json.loads(quoted)
        except ValueError:
            path = quoted[1:-1]
        numbered.append((int(match["number"] or 1), path))
    if not numbered:
        return None
    return ImagePrompt(tuple(path for _, path in sorted(numbered, key=lambda item: item[0])))
