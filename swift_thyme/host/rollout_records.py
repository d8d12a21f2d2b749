"""What a kept trajectory says of a sample that ms-swift's GRPO trainer has scored.

All of it is read off the sample: the ids, the loss mask, the images as they were sent. So a record
cannot differ from what is trained. What is kept of it, and where, :mod:`swift_thyme.host.
kept_rollouts` decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.samples import read_samples
from swift_thyme.core.segment import (
    Segment,
    SegmentKind,
    observation_segment,
    split_sampled_text,
    with_opening,
)
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryRecord
from swift_thyme.host.response_prefix import NO_PREFIX, ResponsePrefix

__all__ = ["Kept", "images_in", "record_of"]


class Kept(NamedTuple):
    """A trajectory before it is written: its images still are what ms-swift carries around."""

    record: TrajectoryRecord
    """The record; its image references are empty."""
    images: list[Any]
    """The prompt's images, then those of the observations."""
    prompt_images: int
    """How many of ``images`` belong to the prompt."""


def record_of(
    sample: Any,
    decode: Callable[[list[int]], str],
    prefix: ResponsePrefix = NO_PREFIX,
) -> Kept:
    """Return the record of an ms-swift GRPO sample after its rollout.

    Args:
        sample: ``GRPOSample``; its ``rollout_infos`` hold what the o3 scheduler recorded.
        decode: Token ids to text, special tokens included, with ``<image>`` for each image.
        prefix: What the template put in front of the assistant's turn.
    """
    summary = read_infos(sample.rollout_infos)
    segments = _segments(sample, summary, decode, prefix)
    text = "".join(segment.text for segment in segments)
    prompt, system = _prompt(sample.messages)
    columns = {name: [value] for name, value in sample.extra.items()}
    (read,) = read_samples([text], {**columns, "messages": [sample.messages]})
    images = list(sample.images or [])
    returned = sum(images_in(segment) for segment in segments)
    record = TrajectoryRecord(
        id=str(sample.request_id),
        question=read.question,
        segments=segments,
        system=system,
        prompt=prompt,
        answer=read.answer,
        reference=read.references,
        prompt_tokens=_prompt_tokens(sample, segments),
        meta={"prompt_id": str(sample.prompt_id)},
    )
    if summary is not None:
        record = replace(
            record,
            end_reason=summary.end_reason.value if summary.end_reason else None,
            tool_used=summary.tool_used,
            statuses=tuple(summary.statuses),
            repairs=tuple(summary.repairs),
            turns=summary.turns,
            sampled_tokens=summary.sampled_tokens,
            timings={"sandbox_s": round(summary.sandbox_s, 4)},
        )
    return Kept(record, images, max(len(images) - returned, 0))


def images_in(segment: Segment[ImageRef]) -> int:
    """Return how many images an observation shows; other segments show none."""
    return segment.text.count(IMAGE_TAG) if segment.kind is SegmentKind.OBSERVATION else 0


def _prompt(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """Return the user's text and the system text."""
    texts: dict[str, str] = {}
    for message in messages:
        content = message.get("content")
        if message["role"] in ("system", "user") and isinstance(content, str):
            texts[message["role"]] = content
    return texts.get("user", ""), texts.get("system")


def _segments(
    sample: Any,
    summary: TrajectorySummary | None,
    decode: Callable[[list[int]], str],
    prefix: ResponsePrefix,
) -> tuple[Segment[ImageRef], ...]:
    """Split the sample's ids into what was sampled and what the sandbox said."""
    ids = [token_id for turn in sample.response_token_ids or [] for token_id in turn]
    mask = [m for turn in sample.response_loss_mask or [] for m in turn]
    if not ids:
        content = sample.messages[-1]["content"]
        pieces = split_sampled_text(content) if isinstance(content, str) else []
        return tuple(Segment(kind, text) for kind, text in pieces)
    if len(ids) != len(mask):
        # A rollout of one turn comes without a mask: all of it was sampled.
        mask = [1] * len(ids)
    ids, mask = prefix.split(ids, mask)
    if summary is None:
        segments = _by_mask(ids, mask, decode)
    else:
        segments = _by_record(ids, summary, decode)
    return with_opening(segments, prefix.text)


def _by_record(
    ids: list[int], summary: TrajectorySummary, decode: Callable[[list[int]], str]
) -> tuple[Segment[ImageRef], ...]:
    """Split by the record of the blocks, which says where each observation stands."""
    segments: list[Segment[ImageRef]] = []
    position = 0
    for block in summary.blocks:
        if not block.entered:
            continue
        start = block.offset
        segments += _sampled(ids[position:start], decode)
        position = start + block.n_ids
        text = decode(ids[start:position])
        segments.append(observation_segment(block, text).with_images(()))
    return (*segments, *_sampled(ids[position:], decode))


def _by_mask(
    ids: list[int], mask: Sequence[int], decode: Callable[[list[int]], str]
) -> tuple[Segment[ImageRef], ...]:
    """Split a rollout of another scheduler by its loss mask: 1 was sampled, 0 was added."""
    segments: list[Segment[ImageRef]] = []
    position = 0
    for was_sampled, run in itertools.groupby(mask):
        end = position + len(list(run))
        piece, position = ids[position:end], end
        if was_sampled:
            segments += _sampled(piece, decode)
        else:
            text = decode(piece)
            segments.append(Segment(SegmentKind.OBSERVATION, text))
    return tuple(segments)


def _sampled(ids: list[int], decode: Callable[[list[int]], str]) -> list[Segment[ImageRef]]:
    """Split sampled ids into prose and code; an id counts where its last character stands."""
    text = decode(ids)
    pieces = split_sampled_text(text)
    if len(pieces) < 2:
        return [Segment(kind, piece, tokens=len(ids)) for kind, piece in pieces]
    ends, reached = [], 0
    for _, piece in pieces:
        reached += len(piece)
        ends.append(reached)
    counts = [0] * len(pieces)
    reached, index = 0, 0
    for token_id in ids:
        # Half a character decodes to one replacement character, so this is off by one at most.
        reached += len(decode([token_id]))
        while index < len(ends) - 1 and reached > ends[index]:
            index += 1
        counts[index] += 1
    return [
        Segment(kind, piece, tokens=count)
        for (kind, piece), count in zip(pieces, counts, strict=True)
    ]


def _prompt_tokens(sample: Any, segments: Sequence[Segment[ImageRef]]) -> int | None:
    """Return the prompt's length, from the length of the whole sample as it is trained on."""
    encoded = getattr(sample, "encoded", None) or {}
    total = encoded.get("length") or len(encoded.get("input_ids") or ())
    counts = [segment.tokens for segment in segments]
    if not total or None in counts:
        return None
    rest = int(total) - sum(count for count in counts if count is not None)
    return rest if rest > 0 else None
