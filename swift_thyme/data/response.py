"""Checks of an assistant's turn against the protocol, and the rewriting of image paths in it."""

from __future__ import annotations

import ast
import functools
import posixpath
import re
import textwrap
import warnings
from collections.abc import Collection, Sequence

from swift_thyme.core.placeholders import CONTROL_TOKEN
from swift_thyme.core.protocol import (
    IMAGE_TAG,
    OUTPUT_DIR,
    OUTPUT_OPEN,
    THINK_CLOSE,
)
from swift_thyme.core.reading import Reading, SpanKind, find_tags, read
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = ["check_special_tokens", "check_response", "output_texts", "replace_paths", "tidy"]

_PATH_CHARACTER = r"[\w./~-]"


def tidy(response: str) -> str:
    """Return the response as a rollout would hold it.

    A rollout stops at ``</code>``, where the output follows at once, and at ``</answer>``; blanks
    there would train the model to write what it never gets to write.
    """
    response = response.strip()
    reading = read(response)
    texts = []
    position = 0
    for block in reading.blocks:
        after = response[block.end :]
        if block.closed and after.lstrip()[: len(OUTPUT_OPEN)].lower() == OUTPUT_OPEN:
            texts.append(response[position : block.end])
            position = len(response) - len(after.lstrip())
    return "".join([*texts, response[position:]])


def check_special_tokens(text: str, name: str) -> None:
    """Raise RowRejected where a text holds a control token of the model, or cannot be written."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowRejected(Reason.BAD_UNICODE, f"{name}: {error.reason}") from error
    found = CONTROL_TOKEN.search(text)
    if found:
        raise RowRejected(Reason.SPECIAL_TOKEN, f"{name} holds {found.group()}")


def output_texts(response: str) -> list[str]:
    """Return what stands inside the sandbox outputs, in order."""
    return read(response).outputs


class _Scan:
    """One pass over the tags of a response that count."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.text = reading.text
        self.open: str | None = None
        """The block that is open: `code`, `sandbox_output` or `answer`; they do not nest."""
        self.think = "absent"
        self.answered = False
        self.position = 0
        self.code_end: int | None = None
        """Where the last code block ended, until its output is seen."""

    def reject(self, reason: Reason, what: str, at: int) -> RowRejected:
        around = self.text[max(0, at - 20) : at + 20]
        return RowRejected(reason, f"{what} at character {at}: {around!r}")

    def run(self) -> None:
        for found in self.reading.tags:
            closing, tag, at = found.text.startswith("</"), found.text.strip("</>"), found.start
            if self.open is not None:
                self._inside(closing, tag, at)
            else:
                self._between(closing, tag, at)
            self.position = found.end
            if self.open is None and closing and tag == "code":
                self.code_end = found.end
        end = len(self.text)
        if self.open is not None:
            raise self.reject(Reason.UNBALANCED_TAG, f"<{self.open}> is not closed", end)
        if self.think == "open":
            raise self.reject(Reason.UNBALANCED_TAG, "<think> is not closed", end)
        if self.code_end is not None:
            raise self.reject(Reason.CODE_WITHOUT_OUTPUT, "no output", self.code_end)
        if not self.answered:
            raise RowRejected(Reason.NO_ANSWER, f"the response ends with {self.text[-40:]!r}")
        if self.text[self.position :].strip():
            raise self.reject(Reason.TEXT_AFTER_ANSWER, "text", self.position)

    def _inside(self, closing: bool, tag: str, at: int) -> None:
        if closing and tag == self.open:
            if tag == "answer":
                if not self.text[self.position : at].strip():
                    raise self.reject(Reason.EMPTY_ANSWER, "<answer> is empty", at)
                self.answered = True
            self.open = None
        else:
            mark = "/" if closing else ""
            raise self.reject(Reason.UNBALANCED_TAG, f"<{mark}{tag}> inside <{self.open}>", at)

    def _between(self, closing: bool, tag: str, at: int) -> None:
        if self.code_end is not None:
            is_output = tag == "sandbox_output" and not closing
            if not is_output or self.text[self.code_end : at].strip():
                raise self.reject(Reason.CODE_WITHOUT_OUTPUT, "no output", self.code_end)
        elif tag == "sandbox_output" and not closing:
            raise self.reject(Reason.OUTPUT_WITHOUT_CODE, "<sandbox_output>", at)
        self.code_end = None
        if closing and tag != "think":
            raise self.reject(Reason.UNBALANCED_TAG, f"</{tag}> was not opened", at)
        if tag == "think":
            self._think(closing, at)
            return
        if self.answered:
            raise self.reject(Reason.TAG_ORDER, f"<{tag}> after the answer", at)
        if tag == "answer" and self.think == "open":
            if any(t.text == THINK_CLOSE for t in self.reading.tags if t.start > at):
                raise self.reject(Reason.TAG_ORDER, "<answer> before </think>", at)
            raise self.reject(Reason.UNBALANCED_TAG, "<think> is not closed", at)
        self.open = tag

    def _think(self, closing: bool, at: int) -> None:
        if closing:
            if self.think != "open":
                raise self.reject(Reason.UNBALANCED_TAG, "</think> was not opened", at)
            self.think = "closed"
            return
        if self.think == "open":
            raise self.reject(Reason.UNBALANCED_TAG, "<think> inside <think>", at)
        if self.think == "closed" or self.answered:
            raise self.reject(Reason.TAG_ORDER, "a second <think>", at)
        self.think = "open"


def check_response(response: str) -> None:
    """Check the form of a response: tags, code, answer, images.

    ``<think>`` may be absent, as in the published split without it; where it stands, the answer
    follows its end.

    Raises:
        RowRejected: Something is wrong; the first problem in the order of the text counts.
    """
    if not response.strip():
        raise RowRejected(Reason.EMPTY_RESPONSE, "the response is empty")
    check_special_tokens(response, "the response")
    reading = read(response)
    _Scan(reading).run()
    own = [response[s.start : s.end] for s in reading.spans if s.kind is not SpanKind.OUTPUT]
    n_tags = sum(text.count(IMAGE_TAG) for text in own)
    if n_tags:
        raise RowRejected(Reason.IMAGE_OUTSIDE_OUTPUT, f"{n_tags} of them")
    for number, program in enumerate(reading.programs, 1):
        _check_code(program, number)


def _check_code(code: str, number: int) -> None:
    # The engine would stop in the middle of such a program.
    for tag in find_tags(code):
        raise RowRejected(Reason.UNBALANCED_TAG, f"{tag} inside the program of block {number}")
    try:
        with warnings.catch_warnings():
            # Unknown escapes such as "\d" are legal, and common in regular expressions.
            warnings.simplefilter("ignore")
            # Code between tags on one line begins with a blank.
            tree = ast.parse(textwrap.dedent(code).strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"block {number}" + (f", line {line}" if line else "")
        text = getattr(error, "msg", None) or type(error).__name__
        raise RowRejected(Reason.CODE_SYNTAX, f"{where}: {text}") from error
    if not tree.body:
        raise RowRejected(Reason.EMPTY_CODE, f"block {number}")


def replace_paths(text: str, moved: Sequence[tuple[Collection[str], str]]) -> str:
    """Replace the absolute paths that name images by their local paths.

    A path names an image when it is one of the image's paths, or has the base name of one, unless
    another image has that base name too. Files below the folder in which programs save their own
    images are never meant by a base name.

    Args:
        text: A response.
        moved: For each image the paths by which the row calls it, and where it is now.
    """
    exact = {path: local for paths, local in moved for path in paths if path.startswith("/")}
    for path in sorted(exact, key=len, reverse=True):
        pattern = rf"(?<!{_PATH_CHARACTER}){re.escape(path)}(?![\w/-]|\.\w)"
        text = exact[path].join(re.split(pattern, text))
    named: dict[str, set[str]] = {}
    for paths, local in moved:
        for path in paths:
            named.setdefault(posixpath.basename(path), set()).add(local)
    clear = {name: places.pop() for name, places in named.items() if name and len(places) == 1}
    for name in sorted(clear, key=len, reverse=True):
        pattern = rf"(?<![\w./:~-])/(?:[^\s\"'<>|`/]+/)*{re.escape(name)}(?![\w/-]|\.\w)"
        local = clear[name]
        text = re.sub(pattern, functools.partial(_unless_produced, local=local), text)
    return text


def _unless_produced(match: re.Match[str], local: str) -> str:
    path = match.group()
    return path if posixpath.normpath(path).startswith(OUTPUT_DIR) else local
