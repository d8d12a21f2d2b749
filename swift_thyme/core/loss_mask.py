r"""What is trained on in the assistant's turn of a demonstration, and where its tokens part.

A demonstration holds a whole trajectory in one turn, sandbox outputs included. Two rules say what
carries loss (Thyme sec. 4.1):

* nothing inside ``<sandbox_output>...</sandbox_output>``, the tags included: in a rollout the
  sandbox writes them, never the model;
* of a trajectory with several outputs only what follows the second-last ``</sandbox_output>``,
  that is the last code block, what was written before it in that turn, and everything after its
  output. With one output or none, everything that the model wrote carries loss.

The pieces are those of a rollout: what the model samples in one turn, then one observation, and so
on. Each must become tokens on its own. A byte-pair tokenizer would merge across the borders (in
Qwen's vocabulary ``</code><sandbox_output>`` has one token ``><``, and ``</sandbox_output>`` before
a line break one ``>\n``), and the model would be trained on ids that no rollout ever has.
"""

from __future__ import annotations

from typing import NamedTuple

from swift_thyme.core.protocol import THINK_OPEN
from swift_thyme.core.reading import SpanKind, find_tags, read

__all__ = ["LossSegment", "after_prefix", "split_response"]


class LossSegment(NamedTuple):
    """A piece of the assistant's turn that becomes tokens on its own."""

    text: str
    """Never empty; all segments together are the turn, character by character."""
    trained: bool
    """Whether its tokens carry loss."""


def split_response(response: str) -> list[LossSegment]:
    """Return the segments of an assistant's turn in order.

    Args:
        response: The turn, with one ``<image>`` per returned image inside the outputs.
    """
    outputs = [span for span in read(response).spans if span.kind is SpanKind.OUTPUT]
    trained_from = outputs[-2].end if len(outputs) > 1 else 0
    segments = []
    position = 0
    for output in outputs:
        if position < output.start:
            text = response[position : output.start]
            segments.append(LossSegment(text, position >= trained_from))
        segments.append(LossSegment(response[output.start : output.end], False))
        position = output.end
    if position < len(response):
        segments.append(LossSegment(response[position:], True))
    return segments


def after_prefix(response: str, prefix: str) -> str | None:
    r"""Return the part of a demonstration that the model writes after a response prefix.

    The prefix and this part are then the demonstration as a rollout would have it. A demonstration
    may hold the prefix or not; a thought that the prefix opens, and an empty one that it holds, are
    not said twice.

    Args:
        response: The assistant's turn.
        prefix: The text that the template puts in front of what a model samples (``<think>\n``).

    Returns:
        The part, or None where the prefix opens a thought and the demonstration has none: behind
        the prefix it would teach the model never to close it.
    """
    if response.startswith(prefix):
        return response[len(prefix) :]
    tags = find_tags(prefix)
    if tags and tags[-1] == THINK_OPEN:
        begun = response.lstrip()
        if begun[: len(THINK_OPEN)].lower() != THINK_OPEN:
            return None
        return begun[len(THINK_OPEN) :].lstrip()
    return response[read(response).opening :] if read(prefix).opening else response
