"""Dates and times of day: reading the usual forms and comparing them."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import clean

__all__ = ["Date", "Clock", "parse_date", "parse_clock", "compare_dates", "compare_clocks"]


class Date(NamedTuple):
    """A date in which any part may be missing."""

    year: int | None
    month: int | None
    day: int | None


class Clock(NamedTuple):
    """A time of day."""

    hour: int
    """0-23 where the half of the day is known, else as written."""
    minute: int
    second: int
    sure: bool
    """Whether the half of the day is known."""


_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("january", "jan"),
            ("february", "feb"),
            ("march", "mar"),
            ("april", "apr"),
            ("may",),
            ("june", "jun"),
            ("july", "jul"),
            ("august", "aug"),
            ("september", "sept", "sep"),
            ("october", "oct"),
            ("november", "nov"),
            ("december", "dec"),
        ),
        start=1,
    )
    for name in names
}
_MONTH = r"(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_WEEKDAY = re.compile(
    r"\A(?:on\s+)?(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
)
_NAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?",
        rf"{_MONTH}\s+(?:the\s+)?{_DAY}(?:,?\s+{_YEAR})?",
        rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}",
        rf"{_DAY}-{_MONTH}-{_YEAR}",
    )
)
_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_NUMERIC = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})")
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?\s*"
    r"(?P<half>a\.?m\.?|p\.?m\.?)?"
)


def parse_date(text: str) -> frozenset[Date]:
    """Return every reading of a text that is one date; empty where it is none.

    ``03/04/2021`` has two readings, as the order of day and month differs between countries.
    """
    text = " ".join(clean(text).casefold().split()).rstrip(".,;")
    text = _WEEKDAY.sub("", text, count=1)
    for pattern in _NAMED:
        match = pattern.fullmatch(text)
        if match is not None:
            parts = match.groupdict()
            return _real(
                Date(
                    int(parts["year"]) if parts.get("year") else None,
                    _MONTHS[parts["month"]],
                    int(parts["day"]) if parts.get("day") else None,
                )
            )
    match = _ISO.fullmatch(text)
    if match is not None:
        return _real(Date(*map(int, match.groups())))
    match = _NUMERIC.fullmatch(text)
    if match is not None:
        first, second, year = map(int, match.groups())
        return _real(Date(year, first, second)) | _real(Date(year, second, first))
    return frozenset()


def _real(date: Date) -> frozenset[Date]:
    """Return the date as a set, empty where the calendar has no such day."""
    try:
        # 2000 is a leap year, so a day without a year is never refused for being 29 February.
        datetime.date(date.year or 2000, date.month or 1, date.day or 1)
    except ValueError:
        return frozenset()
    return frozenset({date})


def compare_dates(reference: frozenset[Date], answer: frozenset[Date]) -> Verdict:
    """Compare all readings of two dates."""
    agreeing = [(a, b) for a in reference for b in answer if _compatible(a, b)]
    if not agreeing:
        return Verdict.WRONG
    if len(reference) == len(answer) == 1 and all(a == b for a, b in agreeing):
        return Verdict.RIGHT
    return Verdict.UNDECIDED


def _compatible(a: Date, b: Date) -> bool:
    return all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def parse_clock(text: str) -> Clock | None:
    """Return the time of day that a text consists of, or None."""
    text = " ".join(clean(text).casefold().split())
    match = _CLOCK.fullmatch(text) or _CLOCK.fullmatch(text.rstrip("."))
    if match is None or not (match.group("minute") or match.group("half")):
        return None
    hour = int(match.group("hour"))
    minute, second = int(match.group("minute") or 0), int(match.group("second") or 0)
    half = (match.group("half") or "")[:1]
    if hour > 23 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return Clock(hour, minute, second, sure=bool(half) or hour > 12 or hour == 0)


def compare_clocks(reference: Clock, answer: Clock) -> Verdict:
    """Compare two times of day; without am/pm or a 24-hour value the half stays open."""
    if reference[:3] == answer[:3]:
        return Verdict.RIGHT if reference.sure == answer.sure else Verdict.UNDECIDED
    same_minute = reference[1:3] == answer[1:3]
    half_open = not (reference.sure and answer.sure)
    if same_minute and half_open and (reference.hour - answer.hour) % 12 == 0:
        return Verdict.UNDECIDED
    return Verdict.WRONG
