"""Reading a verdict from a judge's reply, and from nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["parse_reply"]

_LONGEST_REPLY = 20_000
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"\A```[a-zA-Z]*\s*\n(.*?)\n?\s*```\Z", re.DOTALL)


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse_reply(reply: object, key: str, highest: int) -> int | None:
    """Return the verdict in a judge's reply, or None where it has none or more than one.

    The reply is a JSON object with the key, alone or with prose around it. Two objects with the key
    are no verdict, even if they agree: one of them may be quoted. Neither is a value other than a
    whole number from 0 to ``highest``, a key spelled with escapes, or a key that occurs twice.

    Args:
        reply: Content of the reply's message; anything but text has no verdict.
        key: Name of the verdict, for example "Correctness".
        highest: Largest value that the verdict can have; the smallest is 0.
    """
    if not isinstance(reply, str) or len(reply) > _LONGEST_REPLY:
        return None
    text = _THOUGHT.sub("", reply, count=1).strip()
    if text.lower().startswith("<think>"):
        return None  # cut off before it came to a verdict
    fenced = _FENCE.match(text)
    if fenced is not None:
        text = fenced.group(1).strip()
    values = []
    position = text.find("{")
    while position >= 0:
        try:
            found, end = _DECODER.raw_decode(text, position)
        except _RepeatedKeyError:
            return None
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        # Written out in the reply: an escaped spelling can only be a quotation of tampered text.
        if key in found and re.search(rf'"{key}"\s*:', text[position:end]):
            values.append(found[key])
        position = text.find("{", end)
    if len(values) != 1:
        return None
    return _whole_number(values[0], highest)


def _whole_number(value: object, highest: int) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 4:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= highest else None
