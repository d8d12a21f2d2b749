"""English numbers in words: "one hundred twenty", "two thirds", "two point five", "twenty twenty".

A reader takes words from the left and says how many it has read; the caller must find a meaning for
every word that is left. ``changes_a_number`` knows the words that make a number another one, so
that "five squared" or "two hundredths" is never taken for a count of things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

__all__ = ["MAGNITUDES", "WordNumber", "changes_a_number", "read_number", "read_ordinal"]


class WordNumber(NamedTuple):
    """What was read at the start of some words."""

    value: Fraction
    length: int
    """Words that were read."""
    year: bool = False
    """Whether it is spoken as years are ("nineteen ninety-five"), which has no other sure value."""


_SMALL = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
    )
}
MAGNITUDES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "lakh": 10**5,
    "lac": 10**5,
    "lakhs": 10**5,
    "million": 10**6,
    "mn": 10**6,
    "mln": 10**6,
    "crore": 10**7,
    "crores": 10**7,
    "billion": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
    "tn": 10**12,
}
"""Words behind a number that multiply it."""
_SCALES = {
    word: MAGNITUDES[word] for word in "thousand lakh million crore billion trillion".split()
}
_ORDINALS = {
    word: value
    for value, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
        "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth".split(),
        start=1,
    )
} | {word[:-1] + "ieth": value for word, value in _TENS.items()}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    word + plural: value
    for word, value in (_ORDINALS | {"hundredth": 100, "thousandth": 1000}).items()
    for plural in ("", "s")
    if value > 2
}
_NUMERALS = _SMALL.keys() | _TENS.keys() | MAGNITUDES.keys() | _ORDINALS.keys() | _PARTS.keys()
_CHANGING = frozenset(
    "squared cubed square cube power root factorial fold double twice triple thrice point minus "
    "negative plus score gross tens dozens hundreds thousands millions billions trillions th st nd "
    "rd ones twos threes twenties thirties forties fifties sixties seventies eighties nineties oh "
    "pair pairs couple thereof another other others extra multiplied divided times to".split()
)


def changes_a_number(word: str) -> bool:
    """Tell whether a word behind a number gives it another value ("squared", "thirds")."""
    return any(part in _NUMERALS or part in _CHANGING for part in word.casefold().split("-"))


def read_number(text: str) -> WordNumber | None:
    """Read the longest number at the start of a text; lengths count words cut at blanks."""
    raw = text.casefold().split()
    words, ends = _cut(raw)
    sign = 1
    start = 0
    if words[:1] in (["minus"], ["negative"]):
        sign, start = -1, 1
    found = _read(words[start:])
    if found is None:
        return None
    length = ends.get(start + found.length)
    if length is None:
        # Part of a hyphenated word was left, as in "two-door".
        return None
    return WordNumber(sign * found.value, length, found.year)


def read_ordinal(text: str) -> int | None:
    """Return the number of a text that is one ordinal ("third", "twenty-first", "3rd")."""
    text = text.strip().casefold()
    digits = re.fullmatch(r"(?:the )?(\d{1,4})(st|nd|rd|th)", text)
    if digits is not None:
        return int(digits.group(1))
    words = re.split(r"[\s-]+", text.removeprefix("the "))
    if len(words) == 1:
        return _ORDINALS.get(words[0])
    if len(words) == 2 and words[0] in _TENS and 1 <= _ORDINALS.get(words[1], 0) <= 9:
        return _TENS[words[0]] + _ORDINALS[words[1]]
    return None


def _cut(raw: Sequence[str]) -> tuple[list[str], dict[int, int]]:
    """Cut hyphenated words; the second result maps a count of parts to a count of words."""
    words: list[str] = []
    ends: dict[int, int] = {}
    for index, word in enumerate(raw, start=1):
        words += word.split("-")
        ends[len(words)] = index
    return words, ends


def _read(words: Sequence[str]) -> WordNumber | None:
    year = _read_year(words)
    if year is not None:
        return year
    if words[:1] in (["a"], ["an"]):
        # "a" counts only before a word that is itself part of a number.
        if words[1:2] and (words[1] in MAGNITUDES or words[1] in ("half", "quarter", "third")):
            return _read(["one", *words[1:]])
        return None
    if words[:1] == ["half"]:
        if words[1:3] == ["a", "dozen"]:
            return WordNumber(Fraction(6), 3)
        if words[1:2] == ["dozen"]:
            return WordNumber(Fraction(6), 2)
        return WordNumber(Fraction(1, 2), 1)
    whole = _read_cardinal(words)
    if whole is None:
        return None
    value, at = Fraction(whole[0]), whole[1]
    part = words[at] if at < len(words) else ""
    if part == "point":
        return _read_decimals(words, value, at)
    # "twenty third" is the 23rd; only "thirds" can be counted.
    if part in _PARTS and (value == 1) != part.endswith("s"):
        return WordNumber(value / _PARTS[part], at + 1)
    if part == "and":
        tail = words[at + 1 :]
        if tail[:1] in (["a"], ["half"]) or (len(tail) > 1 and tail[1] in _PARTS):
            rest = _read(tail)
            if rest is not None and 0 < rest.value < 1:
                return _scaled(words, value + rest.value, at + 1 + rest.length)
    return _scaled(words, value, at)


def _scaled(words: Sequence[str], value: Fraction, at: int) -> WordNumber:
    """Take a word such as "dozen" that multiplies what was read."""
    if at < len(words) and words[at] in MAGNITUDES:
        return WordNumber(value * MAGNITUDES[words[at]], at + 1)
    return WordNumber(value, at)


def _read_decimals(words: Sequence[str], value: Fraction, at: int) -> WordNumber | None:
    digits = ""
    end = at + 1
    while end < len(words) and (words[end] == "oh" or _SMALL.get(words[end], 10) < 10):
        digits += str(_SMALL.get(words[end], 0))
        end += 1
    if not digits:
        # "two point twenty-five" is said too, but not by everybody.
        return None
    return _scaled(words, value + Fraction(int(digits), 10 ** len(digits)), end)


def _below_hundred(words: Sequence[str], at: int) -> tuple[int, int] | None:
    if at >= len(words):
        return None
    if words[at] in _SMALL:
        return _SMALL[words[at]], at + 1
    if words[at] not in _TENS:
        return None
    value, at = _TENS[words[at]], at + 1
    if at < len(words) and 1 <= _SMALL.get(words[at], 0) <= 9:
        return value + _SMALL[words[at]], at + 1
    return value, at


def _read_cardinal(words: Sequence[str]) -> tuple[int, int] | None:
    """Read a whole number; scales have to fall from left to right."""
    total, at, last = 0, 0, None
    while True:
        start = at
        if at and words[at : at + 1] == ["and"]:
            start = at + 1
        group = _below_hundred(words, start)
        if group is None:
            return None if last is None else (total, at)
        value, end = group
        if words[end : end + 1] == ["hundred"] and 0 < value < 100:
            value, end = value * 100, end + 1
            skip = 1 if words[end : end + 1] == ["and"] else 0
            tail = _below_hundred(words, end + skip)
            if tail is not None and tail[0]:
                value, end = value + tail[0], tail[1]
        scale = 1
        while end < len(words) and words[end] in _SCALES:
            scale, end = scale * _SCALES[words[end]], end + 1
        if last is not None and (scale >= last or value >= last or value == 0):
            return (total, at)
        total, at, last = total + value * scale, end, scale
        if scale == 1:
            return (total, at)


def _read_year(words: Sequence[str]) -> WordNumber | None:
    """Read "nineteen ninety-five", "twenty twenty", "nineteen oh five", "nineteen hundred"."""
    if not words or not (10 <= _SMALL.get(words[0], 0) <= 19 or words[0] == "twenty"):
        return None
    century = 20 if words[0] == "twenty" else _SMALL[words[0]]
    if words[1:2] == ["oh"] and len(words) == 3 and 1 <= _SMALL.get(words[2], 0) <= 9:
        return WordNumber(Fraction(100 * century + _SMALL[words[2]]), 3, year=True)
    rest = _below_hundred(words, 1)
    if rest is None or rest[0] < 10 or rest[1] != len(words):
        return None
    return WordNumber(Fraction(100 * century + rest[0]), rest[1], year=True)
