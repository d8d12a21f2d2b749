"""Lists of short answers: equal in order, equal in another order, too short or too long.

Another order is RIGHT only where nothing gives the items an order: a set was asked for, or nothing
is known of the question. A title such as "War and Peace" looks like a list and is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from swift_thyme.answers.dates import parse_clock, parse_date
from swift_thyme.answers.names import asks_for_a_set
from swift_thyme.answers.polarity import polarity_of
from swift_thyme.answers.quantities import parse_quantity
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import clean, words_of

__all__ = ["compare_lists"]

Compare = Callable[[str, str, str], Verdict]

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_SEPARATOR = re.compile(r"\s*(?:;|\n|,\s+(?:and\s+|&\s*)?|,(?!\d{3}(?!\d))|\s+and\s+|\s+&\s+)\s*")
_VAGUE = frozenset("more others other etc so on such some something rest like maybe not".split())
_ASSIGNED = re.compile(r"\A([A-Za-z])\s*=\s*(?=\S)")


def _items(text: str) -> tuple[str, list[str]]:
    """Return the opening bracket around a list, if any, and its items."""
    text = clean(text)
    opening = text[:1] if _BRACKETS.get(text[:1]) == text[-1:] and len(text) > 2 else ""
    if opening:
        text = text[1:-1]
    return opening, [item for item in _SEPARATOR.split(text) if item.strip()]


def _without_names(items: list[str], others: list[str]) -> list[str]:
    """Take "a =" off items where the other list has bare values in the same order."""
    names = [_ASSIGNED.match(item) for item in items]
    if any(name is None for name in names) or any(map(_ASSIGNED.match, others)):
        return items
    if len({name.group(1) for name in names if name is not None}) != len(items):
        return items
    return [_ASSIGNED.sub("", item) for item in items]


def compare_lists(answer: str, reference: str, question: str, compare: Compare) -> Verdict:
    """Compare two texts of which at least one is a list.

    Args:
        answer: The answer.
        reference: The reference.
        question: The question, which says whether the order matters.
        compare: Compares (answer, reference, question) for one item of each.
    """
    expected_bracket, expected = _items(reference)
    given_bracket, given = _items(answer)
    if (len(expected) < 2 and len(given) < 2) or _is_polar(reference):
        return Verdict.UNDECIDED
    if len(expected) == len(given):
        expected, given = _without_names(expected, given), _without_names(given, expected)
    brackets = {expected_bracket, given_bracket} - {""}
    numeric = all(parse_quantity(item) is not None for item in expected)
    if len(brackets) > 1 and numeric:
        # (1, 2), [1, 2] and {1, 2} are a point, an interval and a set.
        return Verdict.UNDECIDED
    table = [[compare(item, wanted, question) for item in given] for wanted in expected]
    if len(expected) == len(given):
        if all(row[i] is Verdict.RIGHT for i, row in enumerate(table)):
            return Verdict.RIGHT
        if _one_to_one(table):
            free = _order_is_free(expected, given, question, numeric, "{" in brackets)
            return Verdict.RIGHT if free else Verdict.UNDECIDED
        impossible = any(all(v is Verdict.WRONG for v in row) for row in table)
        return Verdict.WRONG if impossible else Verdict.UNDECIDED
    short, long = sorted((expected, given), key=len)
    is_set = bool(question) and asks_for_a_set(question)
    joined = re.search(r"\band\b|[;&\n]", answer + reference) is not None
    if len(short) == 1 and not (numeric or joined or is_set):
        # "Paris" and "Paris, France" may well be the same.
        return Verdict.UNDECIDED
    if question and not is_set and not all(map(_is_bare_number, long)):
        # "Romeo" may be enough for "Romeo and Juliet"; only a set must be whole.
        return Verdict.UNDECIDED
    columns = table if short is expected else [list(column) for column in zip(*table, strict=True)]
    covered = all(Verdict.RIGHT in row for row in columns)
    if any(_VAGUE.intersection(words_of(item)) for item in long):
        return Verdict.UNDECIDED
    brief = all(len(words_of(item)) <= 2 for item in long)
    return Verdict.WRONG if covered and brief else Verdict.UNDECIDED


def _order_is_free(
    expected: list[str], given: list[str], question: str, numeric: bool, braces: bool
) -> bool:
    if braces:
        return True
    items = expected + given
    if numeric or any(parse_clock(i) or parse_date(i) or polarity_of(i) for i in items):
        return False
    if question:
        return asks_for_a_set(question)
    # Without a question, capitals may be a title or a row of names: "War and Peace".
    return not any(item[:1].isupper() for item in expected[1:])


def _is_bare_number(item: str) -> bool:
    quantity = parse_quantity(item)
    return quantity is not None and quantity.noun is None


def _is_polar(text: str) -> bool:
    """Tell whether a text is one yes or no with a sentence behind it, not a list of such words."""
    if polarity_of(text) is None:
        return False
    return any(polarity_of(item) is None for item in _items(text)[1]) or len(words_of(text)) == 1


def _one_to_one(table: list[list[Verdict]]) -> bool:
    """Tell whether every row can have a RIGHT column of its own; equal items make greed safe."""
    free = set(range(len(table)))
    for row in table:
        column = next((i for i in sorted(free) if row[i] is Verdict.RIGHT), None)
        if column is None:
            return False
        free.discard(column)
    return True
