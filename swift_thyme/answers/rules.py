"""The rule stage of ``vqa_orm``: what can be decided about an answer without asking a judge.

Both verdicts are given only where the forms of answer and reference leave no room: options by
letter or text, yes/no, dates, times, numbers with units, lists of such things, equal text after
normalisation, and expressions of which every sign was read. Anything else stays undecided, above
all every paraphrase: no rule looks for the reference *inside* a longer answer, as "not black" holds
"black" and an answer that lists every option holds them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from swift_thyme.answers.choices import compare_choice
from swift_thyme.answers.dates import compare_clocks, compare_dates, parse_clock, parse_date
from swift_thyme.answers.expressions import is_read
from swift_thyme.answers.lists import compare_lists
from swift_thyme.answers.names import asks_for_a_name
from swift_thyme.answers.number_words import read_ordinal
from swift_thyme.answers.polarity import compare_polarity
from swift_thyme.answers.quantities import compare_quantities, parse_quantity
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import NEGATIONS, clean, normalise, words_of

__all__ = ["MathsCheck", "match_answer", "answer_is_concluded"]

MathsCheck = Callable[[str, str], Verdict]
"""Compares (answer, reference) as mathematics; may say UNDECIDED."""

_LONGEST_RULED = 1000
"""Answers above this many characters are prose; only a judge reads them."""


_MATHS_SIGN = re.compile(
    r"\\[a-zA-Z]|[\^=\u221a\u221b\u03c0\u2264\u2265<>\u207b\u00b0\u00bc-\u00be]|\*\*"
    r"|\d\s*[*/+\-]\s*[\w(\\]|\d[a-z]\b|\d?(?:sqrt|pi)\b|\b(?:sqrt|exp|sin|cos|tan|ln)\b"
)
_LONGEST_MATHS = 300
_RANGE_OR_DATE = re.compile(r"[\d\s./:\u2013-]+")


def match_answer(
    answer: str | None,
    references: str | Sequence[str],
    question: str = "",
    maths: MathsCheck | None = None,
) -> Verdict:
    """Compare an answer with the reference, or with several that are equally good.

    Args:
        answer: Text of the answer block; None or blank text is WRONG.
        references: The reference, or every accepted one.
        question: The question, for options and units; may be empty.
        maths: Comparison of mathematical expressions; None leaves them undecided.
    """
    if answer is None or not answer.strip():
        return Verdict.WRONG
    several = (references,) if isinstance(references, str) else tuple(references)
    verdicts = {_match(answer, reference, question, maths) for reference in several}
    for verdict in (Verdict.RIGHT, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.WRONG if verdicts else Verdict.UNDECIDED


def _match(answer: str, reference: str, question: str, maths: MathsCheck | None) -> Verdict:
    answer, reference = answer.strip(), reference.strip()
    if not reference:
        return Verdict.UNDECIDED
    if answer == reference:
        return Verdict.RIGHT
    if len(answer) > _LONGEST_RULED:
        return Verdict.UNDECIDED
    verdict = compare_choice(answer, reference, question)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    verdict = compare_polarity(answer, reference, question)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    for compare in (_compare_dates, _compare_clocks, _compare_ordinals):
        verdict = compare(answer, reference)
        if verdict is not Verdict.UNDECIDED:
            return verdict
    verdict = _compare_quantities(answer, reference, question)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    if normalise(answer) == normalise(reference):
        return Verdict.RIGHT
    verdict = compare_lists(answer, reference, question, _match_item)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    if maths is not None and _is_maths(answer, reference):
        verdict = maths(clean(answer), clean(reference))
        # "2 + 2" is 4, but not where somebody asks what is written there.
        written = verdict is Verdict.RIGHT and asks_for_a_name(question)
        return Verdict.UNDECIDED if written else verdict
    return Verdict.UNDECIDED


def _compare_dates(answer: str, reference: str) -> Verdict:
    expected, given = parse_date(reference), parse_date(answer)
    return compare_dates(expected, given) if expected and given else Verdict.UNDECIDED


def _compare_clocks(answer: str, reference: str) -> Verdict:
    expected, given = parse_clock(reference), parse_clock(answer)
    return compare_clocks(expected, given) if expected and given else Verdict.UNDECIDED


def _compare_ordinals(answer: str, reference: str) -> Verdict:
    expected, given = read_ordinal(clean(reference)), read_ordinal(clean(answer))
    if expected is None or given is None:
        return Verdict.UNDECIDED
    return Verdict.RIGHT if expected == given else Verdict.WRONG


def _compare_quantities(answer: str, reference: str, question: str) -> Verdict:
    expected, given = parse_quantity(reference), parse_quantity(answer)
    if expected is None or given is None:
        return Verdict.UNDECIDED
    return compare_quantities(expected, given, question)


def _match_item(answer: str, reference: str, question: str) -> Verdict:
    for compare in (_compare_dates, _compare_clocks, _compare_ordinals):
        verdict = compare(answer, reference)
        if verdict is not Verdict.UNDECIDED:
            return verdict
    verdict = _compare_quantities(answer, reference, question)
    if verdict is Verdict.UNDECIDED and normalise(answer) == normalise(reference):
        return Verdict.RIGHT
    return verdict


def _is_maths(answer: str, reference: str) -> bool:
    """Tell whether both texts are expressions, at least one beyond a plain number."""
    if max(len(answer), len(reference)) > _LONGEST_MATHS:
        return False
    for text in (answer, reference):
        quantity = parse_quantity(text)
        if quantity is None and _RANGE_OR_DATE.fullmatch(clean(text)):
            # 5-10 is a range and 03/05/2021 a date; neither is a calculation.
            return False
        if quantity is not None and (quantity.dimension or "angle") != "angle":
            # A unit is no part of an expression; sympy would take its letters for symbols.
            return False
    quantities = [parse_quantity(text) for text in (answer, reference)]
    if None not in quantities or not all(is_read(clean(text)) for text in (answer, reference)):
        return False
    return any(_MATHS_SIGN.search(text) for text in (answer, reference))


def answer_is_concluded(reasoning: str, answer: str, tail_chars: int = 400) -> bool:
    """Tell whether the end of a reasoning states the answer: ``cst_orm`` without a judge.

    The answer's words must stand together in the last characters of the reasoning, with no
    negation among the five words before them. That misses a conclusion in other words; it does not
    mistake a rejected alternative for one.

    Args:
        reasoning: The thinking, without code and sandbox outputs.
        answer: Text of the answer block.
        tail_chars: How much of the end is searched, in characters.
    """
    wanted = words_of(normalise(answer))
    found = words_of(reasoning[-tail_chars:])
    if not wanted:
        return False
    for start in range(len(found) - len(wanted), -1, -1):
        if found[start : start + len(wanted)] == wanted:
            return not NEGATIONS.intersection(found[max(0, start - 5) : start])
    return False
