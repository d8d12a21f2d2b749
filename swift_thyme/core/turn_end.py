"""Where a sampled turn ends: at the first closing tag that counts, whatever its last token carries.

Engines stop at strings, but a vocabulary ends tags inside tokens. In Qwen's, 265 of the 266 tokens
that begin with ``>`` carry more (``><``, ``>.``, ``>The``). The engine may also have gone on,
because it knows no such spelling of the tag, or because it checks every few tokens only. This
module says which ids belong to the turn then, and what is missing of its text:

* the turn ends with its first ``</code>`` that closes a block, or ``</answer>``, in any spelling;
* what was sampled after the token that completes the tag is no part of it;
* where that token carries more than the tag and blanks, it is no part of it either, and the rest of
  the tag is given back as text (``>``), to be encoded and appended without loss.

So the ids that follow the tag are those of a supervised row, and each id that is trained on was
sampled. To forbid such tokens while sampling fails where a model puts all its mass there. To go on
behind the tail would give text that no model has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from swift_thyme.core.protocol import ANSWER_CLOSE, CODE_CLOSE
from swift_thyme.core.reading import Reading, read

__all__ = ["TurnEnd", "find_stop_tag", "find_turn_end"]

_STOP_TAG = re.compile(f"{CODE_CLOSE}|{ANSWER_CLOSE}", re.IGNORECASE | re.ASCII)


class TurnEnd(NamedTuple):
    """What belongs to a turn."""

    reading: Reading
    """What the model wrote since the last observation, up to the end of the turn."""
    sampled: int
    """How many of the turn's ids were sampled up to its end, the one that completes it included."""
    kept: int
    """How many of the turn's ids belong to it: ``sampled``, or less where an id carries more."""
    missing: str
    """What the ids that are not kept held of the turn's text; empty where all are kept."""
    is_closed: bool
    """Whether a closing tag ended the turn."""


def find_turn_end(
    decode: Callable[[Sequence[int]], str], before: Sequence[int], token_ids: Sequence[int]
) -> TurnEnd:
    """Find the end of a turn.

    Args:
        decode: Returns the text of ids, special tokens included.
        before: Ids since the last observation, of earlier turns; they hold no closing tag that ends
            a turn.
        token_ids: Ids of the turn.
    """
    ids = [*before, *token_ids]
    reading = read(decode(ids))
    end, n_before, total = reading.turn_end, len(before), len(token_ids)
    if end is None:
        return TurnEnd(reading, total, total, "", False)
    text = reading.text
    if end == len(text):
        # The tag's last character is ASCII, so nothing of a later id can hide behind it.
        return TurnEnd(reading, total, total, "", True)
    low, high = n_before, len(ids)
    # An engine that stops at once has sampled nothing after the tag.
    if high > low and len(decode(ids[: high - 1])) < end:
        low = high - 1
    while high - low > 1:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) >= end:
            high = middle
        else:
            low = middle
    text = decode(ids[:high])
    if not text[end:].strip():
        return TurnEnd(read(text), high - n_before, high - n_before, "", True)
    kept, whole = low, decode(ids[:low])
    while kept > n_before and not text.startswith(whole):
        # What is left ends inside a character.
        kept -= 1
        whole = decode(ids[:kept])
    missing = text[len(whole) : end]
    return TurnEnd(read(text[:end]), high - n_before, kept - n_before, missing, True)


def find_stop_tag(text: str, start: int = 0) -> int | None:
    """Return the offset just after the first ``</code>`` or ``</answer>``, wherever it stands."""
    match = _STOP_TAG.search(text, start)
    return match.end() if match else None
