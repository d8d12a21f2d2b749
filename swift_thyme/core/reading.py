r"""The one reading of a completion: which characters are text, code, sandbox output and answer.

Everything that asks what a completion says asks here: the trajectory, the sampling hook, the loss
mask, the rewards, evaluation, the viewer and the validation of training rows. :class:`TagScanner`
reads text as it comes, token by token; :func:`read` lets it read a whole completion. So a decision
made while sampling can never differ from one made afterwards.

The rules:

* Tags match in any case of the ASCII letters and hold no blanks: ``<CODE>`` is a tag, ``<code >``
  and a tag spelled with other letters (a Kelvin sign for ``k``) are text.
* Between ``<sandbox_output>`` and ``</sandbox_output>`` no other tag counts. An output without its
  end reaches to the end of the completion.
* Between ``<code>`` and ``</code>`` every tag is a piece of the program, but for an output, which
  interrupts the block: what it holds is no part of the program.
* An answer reaches from ``<answer>`` to the next ``</answer>`` that counts. Code and outputs inside
  it are code and outputs, no part of its text.
* A tag is never put together from the two sides of an output.
* A closing tag without its opening one, and an opening ``<answer>`` inside an answer, change
  nothing; they are *stray*.
* An empty thought at the very start is no thought: templates of thinking models put one there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from swift_thyme.core.protocol import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CODE_CLOSE,
    CODE_OPEN,
    OUTPUT_CLOSE,
    OUTPUT_OPEN,
    PROTOCOL_TAGS,
    THINK_CLOSE,
    THINK_OPEN,
)

__all__ = [
    "Piece",
    "Program",
    "Reading",
    "Region",
    "Span",
    "SpanKind",
    "Tag",
    "TagScanner",
    "begins_tag",
    "find_tags",
    "program_of",
    "read",
]

# Without re.ASCII the Kelvin sign would match "k" and the long s would match "s".
_FLAGS = re.IGNORECASE | re.ASCII


def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tags)), _FLAGS)


_IN_OUTPUT = (OUTPUT_CLOSE,)
_IN_CODE = (CODE_CLOSE, OUTPUT_OPEN)
_PATTERNS: dict[tuple[str, ...], re.Pattern[str]] = {
    tags: _pattern(tags) for tags in (PROTOCOL_TAGS, _IN_CODE, _IN_OUTPUT)
}
_LONGEST_TAG = max(map(len, PROTOCOL_TAGS))

_FENCE_OPEN = re.compile(r"\A\s*```[ \t]*(?:python3?|py)?[ \t]*(?:\r?\n|\Z)", _FLAGS)
_FENCE_CLOSE = re.compile(r"\r?\n?[ \t]*```\s*\Z")
_EMPTY_THOUGHT = re.compile(rf"\s*{re.escape(THINK_OPEN)}\s*{re.escape(THINK_CLOSE)}\s*", _FLAGS)


class SpanKind(str, Enum):
    """What characters of a completion are."""

    TEXT = "text"
    CODE = "code"
    """Of a code block, its tags included."""
    OUTPUT = "output"
    """Of a sandbox output, its tags included."""
    ANSWER = "answer"
    """Of an answer, its tags included."""


class Tag(NamedTuple):
    """A tag that counts where it stands."""

    text: str
    """The tag in lower case, one of ``protocol.PROTOCOL_TAGS``."""
    start: int
    """Character offset of its first character."""
    end: int
    """Character offset just after it."""
    stray: bool
    """Whether it opens or closes nothing."""


class Piece(NamedTuple):
    """Some characters in a row, or one tag, as the scanner met them."""

    kind: SpanKind
    text: str
    tag: str | None = None
    """The tag in lower case where the characters are one, and it counts."""
    stray: bool = False
    """Whether the tag opens or closes nothing."""


class TagScanner:
    """Reads a completion as it comes, in pieces of any size; constant time and space per piece."""

    __slots__ = ("in_answer", "in_code", "in_output", "unfinished")

    def __init__(self) -> None:
        self.in_answer = False
        """Whether an answer is open."""
        self.in_code = False
        """Whether a code block is open."""
        self.in_output = False
        """Whether a sandbox output is open."""
        self.unfinished = ""
        """Characters at the end with which a tag may have begun; not yet in any piece."""

    @property
    def kind(self) -> SpanKind:
        """What the next character is, if no tag begins with it."""
        if self.in_output:
            return SpanKind.OUTPUT
        if self.in_code:
            return SpanKind.CODE
        return SpanKind.ANSWER if self.in_answer else SpanKind.TEXT

    def push(self, text: str) -> list[Piece]:
        """Take the next characters and return the pieces that are certain now, in order."""
        text, pieces = self.unfinished + text, []
        position = 0
        while True:
            tags = self._tags()
            match = _PATTERNS[tags].search(text, position)
            if match is None:
                break
            if match.start() > position:
                pieces.append(Piece(self.kind, text[position : match.start()]))
            pieces.append(self._take(match.group()))
            position = match.end()
        rest = text[position:]
        self.unfinished = begins_tag(rest, tags)
        certain = rest[: len(rest) - len(self.unfinished)]
        if certain:
            pieces.append(Piece(self.kind, certain))
        return pieces

    def finish(self) -> list[Piece]:
        """Return what was held back: no tag came of it."""
        rest, self.unfinished = self.unfinished, ""
        return [Piece(self.kind, rest)] if rest else []

    def _tags(self) -> tuple[str, ...]:
        """Return the tags that count now."""
        if self.in_output:
            return _IN_OUTPUT
        return _IN_CODE if self.in_code else PROTOCOL_TAGS

    def _take(self, text: str) -> Piece:
        """Change the state as a tag says."""
        tag, stray = text.lower(), False
        before = self.kind
        if tag == OUTPUT_OPEN:
            self.in_output = True
        elif tag == OUTPUT_CLOSE:
            stray, self.in_output = not self.in_output, False
        elif tag == CODE_OPEN:
            self.in_code = True
        elif tag == CODE_CLOSE:
            stray, self.in_code = not self.in_code, False
        elif tag == ANSWER_OPEN:
            stray, self.in_answer = self.in_answer, True
        elif tag == ANSWER_CLOSE:
            stray, self.in_answer = not self.in_answer, False
        # An opening tag belongs to what it opens, a closing one to what it closes.
        return Piece(before if tag.startswith("</") else self.kind, text, tag, stray)


def begins_tag(text: str, tags: tuple[str, ...] = PROTOCOL_TAGS) -> str:
    """Return the end of the text with which one of the tags may have begun, or nothing."""
    # All tags have their only "<" in front, so a tag that has begun begins at the last one.
    begin = text.rfind("<", -_LONGEST_TAG)
    rest = text[begin:] if begin >= 0 else ""
    # Other letters than ASCII's begin no tag, whatever their lower case is.
    possible = rest.isascii() and any(tag.startswith(rest.lower()) for tag in tags)
    return rest if possible else ""


def find_tags(text: str) -> list[str]:
    """Return every tag of the protocol in a text, in lower case, whatever it stands in."""
    return [tag.lower() for tag in _PATTERNS[PROTOCOL_TAGS].findall(text)]


class Span(NamedTuple):
    """Characters of one kind in a row; the spans of a reading are its whole text, in order."""

    kind: SpanKind
    start: int
    """Character offset of the first one."""
    end: int
    """Character offset just after the last one."""


@dataclass(frozen=True, slots=True)
class Region:
    """A code block or an answer, from its opening tag on."""

    start: int
    """Character offset of the opening tag."""
    end: int
    """Character offset just after the closing tag; the end of the text where there is none."""
    inner: str
    """What it holds: no tags of its own, no outputs, in an answer no code."""
    closed: bool
    """Whether it has a closing tag."""


class Program(NamedTuple):
    """Where the program stands in what a code block holds."""

    start: int
    end: int


def program_of(inner: str, *, closed: bool = True) -> Program:
    """Return the place of the program between the tags of a block, without its fence.

    The fence and its language tag are optional. Without a fence only the line breaks around the
    tags are not code.

    Args:
        inner: The block without its tags.
        closed: Whether the block has its end; before it a fence may close.
    """
    opened = _FENCE_OPEN.match(inner)
    start, end = opened.end() if opened else 0, len(inner)
    if closed and (opened or inner.rstrip().endswith("```")):
        closing = _FENCE_CLOSE.search(inner, start)
        end = closing.start() if closing else end
    if not opened:
        while start < end and inner[start] in "\r\n":
            start += 1
        while end > start and closed and inner[end - 1] in "\r\n":
            end -= 1
    return Program(start, end)


class Reading:
    """What a completion says; made by :func:`read`.

    Args:
        text: The completion.
        spans: Its characters by kind.
        tags: The tags that count, in order.
        blocks: Its code blocks, in order; the last one may be open.
        answers: Its answers, in order; the last one may be open.
    """

    def __init__(
        self,
        text: str,
        spans: tuple[Span, ...],
        tags: tuple[Tag, ...],
        blocks: tuple[Region, ...],
        answers: tuple[Region, ...],
    ) -> None:
        self.text = text
        self.spans = spans
        self.tags = tags
        self.blocks = blocks
        self.answers = answers

    @cached_property
    def programs(self) -> tuple[str, ...]:
        """The programs of the closed blocks, in order, without tags and fences."""
        programs = []
        for block in self.blocks:
            if block.closed:
                start, end = program_of(block.inner)
                programs.append(block.inner[start:end])
        return tuple(programs)

    @cached_property
    def opening(self) -> int:
        """Character offset just after an empty thought at the very start; 0 where there is none."""
        empty = _EMPTY_THOUGHT.match(self.text)
        return empty.end() if empty else 0

    @property
    def has_open_block(self) -> bool:
        """Whether the last code block has no end."""
        return bool(self.blocks) and not self.blocks[-1].closed

    @property
    def pending_program(self) -> str | None:
        """The program that the text ends with; None where it does not end with ``</code>``.

        Blanks after the tag are allowed: an engine that stops on a string may keep the rest of the
        token in which the string ended.
        """
        if not self.programs or self.has_open_block or self.text[self.blocks[-1].end :].strip():
            return None
        return self.programs[-1]

    @property
    def turn_end(self) -> int | None:
        """Character offset just after the first tag that ends a turn; None where there is none.

        A ``</code>`` ends a turn if it closes a block, an ``</answer>`` always.
        """
        ends = (
            tag.end
            for tag in self.tags
            if tag.text == ANSWER_CLOSE or (tag.text == CODE_CLOSE and not tag.stray)
        )
        return next(ends, None)

    @property
    def answer(self) -> str | None:
        """The stripped text of the last closed answer; None where there is none or it is blank."""
        closed = [answer for answer in self.answers if answer.closed]
        return (closed[-1].inner.strip() or None) if closed else None

    @property
    def outputs(self) -> list[str]:
        """What each sandbox output holds, without its tags; the last one may be open."""
        inner = []
        for span in self.spans:
            if span.kind is SpanKind.OUTPUT:
                text = self.text[span.start + len(OUTPUT_OPEN) : span.end]
                closed = text[-len(OUTPUT_CLOSE) :].lower() == OUTPUT_CLOSE
                inner.append(text[: -len(OUTPUT_CLOSE)] if closed else text)
        return inner

    def without_outputs(self, start: int = 0, end: int | None = None, code: str = "") -> str:
        """Return a part of the text without sandbox outputs and with code replaced.

        Args:
            start: Character offset of the part.
            end: Offset just after it; None is the end of the text.
            code: What stands for a span of code; None of its own characters are returned.
        """
        end = len(self.text) if end is None else end
        texts = []
        for span in self.spans:
            low, high = max(span.start, start), min(span.end, end)
            if low >= high or span.kind is SpanKind.OUTPUT:
                continue
            texts.append(code if span.kind is SpanKind.CODE else self.text[low:high])
        return "".join(texts)

    @property
    def reasoning(self) -> str:
        """The thinking as prose: without tags, code and sandbox outputs.

        Works on completions that break the format too: the thinking then is what stands before the
        first ``</think>`` or ``<answer>``.
        """
        begins = (tag.end for tag in self.tags if tag.text == THINK_OPEN)
        start = next((end for end in begins if end > self.opening), self.opening)
        ends = (
            tag.start
            for tag in self.tags
            if tag.start >= start and tag.text in (THINK_CLOSE, ANSWER_OPEN)
        )
        return self.without_outputs(start, next(ends, None), code=" ").strip()


def read(completion: str) -> Reading:
    """Read a completion, or a part of one that begins between two spans."""
    scanner = TagScanner()
    spans: list[Span] = []
    tags: list[Tag] = []
    regions: dict[SpanKind, list[_OpenRegion]] = {SpanKind.CODE: [], SpanKind.ANSWER: []}
    position = 0
    for piece in _pieces(scanner, completion):
        start, position = position, position + len(piece.text)
        if piece.tag is not None:
            tags.append(Tag(piece.tag, start, position, piece.stray))
        opens = piece.tag is not None and not piece.stray and not piece.tag.startswith("</")
        owns = piece.tag in _OWN_TAGS.get(piece.kind, ()) and not piece.stray
        begins = owns and opens
        if spans and spans[-1].kind is piece.kind and not begins:
            spans[-1] = spans[-1]._replace(end=position)
        else:
            spans.append(Span(piece.kind, start, position))
        if piece.kind in regions:
            kept = regions[piece.kind]
            if begins:
                kept.append(_OpenRegion(start))
            elif owns:
                kept[-1].end = position
            else:
                kept[-1].inner.append(piece.text)
    blocks, answers = (
        tuple(
            Region(
                start=region.start,
                end=len(completion) if region.end is None else region.end,
                inner="".join(region.inner),
                closed=region.end is not None,
            )
            for region in regions[kind]
        )
        for kind in (SpanKind.CODE, SpanKind.ANSWER)
    )
    return Reading(completion, tuple(spans), tuple(tags), blocks, answers)


_OWN_TAGS = {
    SpanKind.CODE: (CODE_OPEN, CODE_CLOSE),
    SpanKind.OUTPUT: (OUTPUT_OPEN, OUTPUT_CLOSE),
    SpanKind.ANSWER: (ANSWER_OPEN, ANSWER_CLOSE),
}


class _OpenRegion:
    """A region while it is read."""

    __slots__ = ("end", "inner", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.end: int | None = None
        self.inner: list[str] = []


def _pieces(scanner: TagScanner, text: str) -> Iterator[Piece]:
    yield from scanner.push(text)
    yield from scanner.finish()
