r"""The text protocol of Thyme: tags, prompts, and what can be read from a completion.

One assistant turn looks like this (Thyme sec. 3), with any number of code blocks::

    <think> ... <code>
    ```python
    ...
    ```
    </code><sandbox_output>...</sandbox_output> ... </think>
    <answer>...</answer>

Everything here is a pure function of text; running code and making ``<sandbox_output>`` is the
sandbox's business, deciding when to go on is the trajectory's. Tags match in any case; the code
fence and its language tag are optional.
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
    "CodeBlock",
    "ImagePrompt",
    "build_user_prompt",
    "build_text_prompt",
    "parse_user_prompt",
    "code_blocks",
    "pending_code",
    "has_open_code_block",
    "extract_answer",
    "reasoning",
    "remove_sandbox_outputs",
    "blank_sandbox_outputs",
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

_OUTPUT = re.compile(r"<sandbox_output>.*?(?:</sandbox_output>|\Z)", re.IGNORECASE | re.DOTALL)
_CODE = re.compile(r"<code>(.*?)</code>", re.IGNORECASE | re.DOTALL)
_CODE_TAG = re.compile(r"<(/?)code>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_FENCE_OPEN = re.compile(r"\A\s*```[ \t]*(?:python3?|py)?[ \t]*(?:\r?\n|\Z)", re.IGNORECASE)
_FENCE_CLOSE = re.compile(r"\r?\n?[ \t]*```\s*\Z")
_THINK_CLOSE = re.compile(r"</think>|<answer>", re.IGNORECASE)
_THINK_OPEN = re.compile(r"<think>", re.IGNORECASE)
_IMAGE_PATH = re.compile(r'User Image Path:[ \t]*("(?:[^"\\]|\\.)*")')


class CodeBlock(NamedTuple):
    """One ``<code>`` block of a completion."""

    code: str
    """The program, without tags and fences."""
    end: int
    """Character offset just after ``</code>`` in the text that was parsed."""
    start: int = 0
    """Character offset of ``<code>``."""


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


def remove_sandbox_outputs(text: str) -> str:
    """Return the text without ``<sandbox_output>`` spans: only what the model wrote."""
    return _OUTPUT.sub("", text)


def blank_sandbox_outputs(text: str) -> str:
    """Return the text with spaces for ``<sandbox_output>`` spans: offsets stay what they were."""
    return _OUTPUT.sub(lambda match: " " * len(match.group(0)), text)


def _strip_fence(block: str) -> str:
    body, opened = _FENCE_OPEN.subn("", block, count=1)
    if opened:
        body = _FENCE_CLOSE.sub("", body, count=1)
    else:
        # Without an opening fence only the line breaks around the tags are not code.
        body = _FENCE_CLOSE.sub("", body, count=1) if body.rstrip().endswith("```") else body
        body = body.strip("\r\n")
    return body


def code_blocks(completion: str) -> list[CodeBlock]:
    """Return the closed code blocks that the model wrote, in order; sandbox output is no code."""
    blocks = []
    for match in _CODE.finditer(blank_sandbox_outputs(completion)):
        blocks.append(CodeBlock(_strip_fence(match.group(1)), match.end(), match.start()))
    return blocks


def pending_code(turn_text: str) -> str | None:
    """Return the program that a turn ends with, or None where it does not end with ``</code>``.

    A few characters after the tag are allowed: an engine that stops on a string may keep the rest
    of the token in which the string ended.

    Args:
        turn_text: Text sampled since the last ``<sandbox_output>`` (or since the prompt).
    """
    blocks = code_blocks(turn_text)
    if not blocks or turn_text[blocks[-1].end :].strip():
        return None
    return blocks[-1].code


def has_open_code_block(completion: str) -> bool:
    """Tell whether the last ``<code>`` the model wrote has no ``</code>``."""
    tags = _CODE_TAG.findall(remove_sandbox_outputs(completion))
    return bool(tags) and tags[-1] == ""


def extract_answer(completion: str) -> str | None:
    """Return the stripped text of the last answer block, or None where there is none."""
    answers: list[str] = _ANSWER.findall(remove_sandbox_outputs(completion))
    return answers[-1].strip() if answers else None


def reasoning(completion: str) -> str:
    """Return the thinking as prose: without tags, code and sandbox outputs.

    Works on completions that break the format too: the thinking then is what stands before the
    first ``</think>`` or ``<answer>``.
    """
    own = remove_sandbox_outputs(completion)
    plain = re.sub(r"<code>.*?(?:</code>|\Z)", " ", own, flags=re.IGNORECASE | re.DOTALL)
    opened = _THINK_OPEN.search(plain)
    if opened is not None:
        plain = plain[opened.end() :]
    return _THINK_CLOSE.split(plain, maxsplit=1)[0].strip()
