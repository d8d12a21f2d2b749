"""Pieces of an assistant's turn by who wrote them; live with their images, on disk with references.

A :class:`Segment` is the same record in inference, in kept rollouts and on disk. Only the form of
its images differs, so it is generic over that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.reading import read

__all__ = ["Segment", "SegmentKind", "observation_segment", "split_sampled_text", "with_opening"]

ImageT = TypeVar("ImageT")
OtherT = TypeVar("OtherT")


class SegmentKind(str, Enum):
    """Who wrote a piece of an assistant turn, and what it is."""

    TEXT = "text"
    """Sampled by the model, no code."""
    CODE = "code"
    """Sampled by the model: a block from ``<code>`` to ``</code>``, tags and fence included; the
    last one of a trajectory that was cut may lack its end."""
    OBSERVATION = "observation"
    """Written by the sandbox: ``<sandbox_output>…</sandbox_output>``."""


@dataclass(frozen=True, slots=True)
class Segment(Generic[ImageT]):
    """A piece of the assistant's turn; the texts of all pieces joined are the completion."""

    kind: SegmentKind
    text: str
    """The exact characters; in an observation one ``<image>`` stands for each image."""
    images: tuple[ImageT, ...] = ()
    """The images behind the ``<image>`` tags of an observation, in order."""
    tokens: int | None = None
    """Length in tokens, images expanded; None where the engine does not tell."""
    status: str | None = None
    """Of an observation: how the block before it ended (``ok``, ``error``, ``timeout``, …)."""
    repairs: tuple[str, ...] = ()
    """Of an observation: the repairs that were applied to the block before it."""
    duration_s: float | None = None
    """Of an observation: wall time of the block in the sandbox, in seconds."""

    def with_images(self, images: Sequence[OtherT]) -> Segment[OtherT]:
        """Return the segment with its images in another form."""
        return Segment(
            self.kind,
            self.text,
            tuple(images),
            self.tokens,
            self.status,
            self.repairs,
            self.duration_s,
        )


def observation_segment(block: BlockRecord, text: str | None = None) -> Segment[ReturnedImage]:
    """Return the observation that a block left in the turn.

    Args:
        block: The block; its observation entered the context.
        text: The observation's text as the model saw it; None takes the block's own.
    """
    return Segment(
        SegmentKind.OBSERVATION,
        block.output if text is None else text,
        images=block.images,
        tokens=block.tokens,
        status=block.status,
        repairs=block.repairs,
        duration_s=round(block.duration_s, 4),
    )


def split_sampled_text(text: str) -> list[tuple[SegmentKind, str]]:
    """Split text that the model sampled between two observations into prose and code.

    The pieces joined are the text. An open ``<code>`` at the end is a code piece too.
    """
    pieces: list[tuple[SegmentKind, str]] = []
    position = 0
    for block in read(text).blocks:
        pieces.append((SegmentKind.TEXT, text[position : block.start]))
        pieces.append((SegmentKind.CODE, text[block.start : block.end]))
        position = block.end
    pieces.append((SegmentKind.TEXT, text[position:]))
    return [(kind, piece) for kind, piece in pieces if piece]


def with_opening(segments: Sequence[Segment[ImageT]], opening: str) -> tuple[Segment[ImageT], ...]:
    """Return the segments of a turn with a text in front that the template has put there.

    It is part of what is read, and none of the tokens that were sampled.

    Args:
        segments: The segments, in order.
        opening: The text; it holds no code.
    """
    first, rest = segments[:1], segments[1:]
    if not opening:
        return tuple(segments)
    if first and first[0].kind is SegmentKind.TEXT:
        return (replace(first[0], text=opening + first[0].text), *rest)
    return (Segment(SegmentKind.TEXT, opening, tokens=0), *segments)
