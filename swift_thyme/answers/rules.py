"""The rule stage of ``vqa_orm``: what can be decided about an answer without asking a judge.

Both verdicts are given only where the forms of answer and reference leave no room: options by
letter or text, yes/no, dates, times, numbers with units, lists of such things, equal text after
normalisation, and expressions that math-verify can read. Anything else stays undecided, above all
every paraphrase: no rule looks for the reference *inside* a longer answer, as "not black" holds
"black" and an answer that lists every option holds them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum

from swift_thyme.answers.choices import compare_choice
from swift_thyme.answers.dates import compare_clocks, compare_dates, parse_clock, parse_date
from swift_thyme.answers.quantities import compare_quantities, parse_quantity
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import NEGATIONS, clean, normalise, words_of

__all__ = ["MathsCheck", "match_answer", "answer_is_concluded"]

MathsCheck = Callable[[str, str], Verdict]
"""Compares (answer, reference) as mathematics; may say UNDECIDED."""

_LONGEST_RULED = 1000
"""Answers above this many characters are prose; only a judge reads them."""


class _Polarity(Enum):
    YES = "yes"
    NO = "no"
    TRUE = "true"
    FALSE = "false"


_POLARITY = re.compile(r"(yes|no|true|false)(?:\s*[,.;:!\u2013\u2014-]+\s*(.*))?", re.DOTALL)
_TURNS = frozenset("but however yes no true false or unless although maybe perhaps".split())
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_SEPARATOR = re.compile(r"\s*(?:;|\n|,\s+(?:and\s+|&\s*)?|,(?!\d{3}(?!\d))|\s+and\s+|\s+&\s+)\s*")
_ORDER = re.compile(
    r"\b(?:order|ordered|rank|ranked|ranking|sort|sorted|ascending|descending|sequence|steps?"
    r"|respectively|coordinates?|from (?:left|top|bottom|right)|chronological\w*|first to last"
    r"|alphabetical\w*)\b",
    re.IGNORECASE,
)
_LATEX_COMMAND = re.compile(r"\\[a-zA-Z]+")
_MATHS_SIGN = re.compile(
    r"\\[a-zA-Z]|[\^=\u221a\u03c0\u2264\u2265<>]|\d\s*[*/+\-]\s*[\w(\\]|\d[a-z]\b|\bsqrt\b"
)
_MATHS_WORDS = frozenset(
    "sqrt sin cos tan sec csc cot arcsin arccos arctan log exp infty pi theta alpha beta".split()
)
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textrm|rm|operatorname)\s*\{([^{}]*)\}")
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
    for compare in (_compare_polarity, _compare_dates, _compare_clocks):
        verdict = compare(answer, reference)
        if verdict is not Verdict.UNDECIDED:
            return verdict
    verdict = _compare_quantities(answer, reference, question)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    if normalise(answer) == normalise(reference):
        return Verdict.RIGHT
    verdict = _compare_lists(answer, reference, question)
    if verdict is not Verdict.UNDECIDED:
        return verdict
    if maths is not None and _is_maths(answer, reference):
        return maths(clean(answer), clean(reference))
    return Verdict.UNDECIDED


def _polarity(text: str) -> _Polarity | None:
    match = _POLARITY.fullmatch(clean(text).casefold())
    if match is None or _TURNS.intersection(words_of(match.group(2) or "")):
        return None
    return _Polarity(match.group(1))


def _compare_polarity(answer: str, reference: str) -> Verdict:
    expected = _polarity(reference)
    if expected is None or len(words_of(reference)) > 1:
        return Verdict.UNDECIDED
    given = _polarity(answer)
    pairs = ({_Polarity.YES, _Polarity.NO}, {_Polarity.TRUE, _Polarity.FALSE})
    if given is None or not any({given, expected} <= pair for pair in pairs):
        return Verdict.UNDECIDED
    return Verdict.RIGHT if given is expected else Verdict.WRONG


def _compare_dates(answer: str, reference: str) -> Verdict:
    expected, given = parse_date(reference), parse_date(answer)
    return compare_dates(expected, given) if expected and given else Verdict.UNDECIDED


def _compare_clocks(answer: str, reference: str) -> Verdict:
    expected, given = parse_clock(reference), parse_clock(answer)
    return compare_clocks(expected, given) if expected and given else Verdict.UNDECIDED


def _compare_quantities(answer: str, reference: str, question: str) -> Verdict:
    expected, given = parse_quantity(reference), parse_quantity(answer)
    if expected is None or given is None:
        return Verdict.UNDECIDED
    return compare_quantities(expected, given, question)


def _items(text: str) -> tuple[str, list[str]]:
    """Return the opening bracket around a list, if any, and its items."""
    text = clean(text)
    opening = text[:1] if _BRACKETS.get(text[:1]) == text[-1:] and len(text) > 2 else ""
    if opening:
        text = text[1:-1]
    return opening, [item for item in _SEPARATOR.split(text) if item.strip()]


def _compare_lists(answer: str, reference: str, question: str) -> Verdict:
    expected_bracket, expected = _items(reference)
    given_bracket, given = _items(answer)
    if (len(expected) < 2 and len(given) < 2) or _polarity(reference) is not None:
        return Verdict.UNDECIDED
    brackets = {expected_bracket, given_bracket} - {""}
    numeric = all(parse_quantity(item) is not None for item in expected)
    if len(brackets) > 1 and numeric:
        # (1, 2), [1, 2] and {1, 2} are a point, an interval and a set.
        return Verdict.UNDECIDED
    table = [[_match_item(item, wanted) for item in given] for wanted in expected]
    if len(expected) == len(given):
        if all(row[i] is Verdict.RIGHT for i, row in enumerate(table)):
            return Verdict.RIGHT
        if _one_to_one(table):
            ordered = (numeric and "{" not in brackets) or _ORDER.search(question) is not None
            return Verdict.UNDECIDED if ordered else Verdict.RIGHT
        impossible = any(all(v is Verdict.WRONG for v in row) for row in table)
        return Verdict.WRONG if impossible else Verdict.UNDECIDED
    short, long = sorted((expected, given), key=len)
    if len(short) == 1 and not numeric and not re.search(r"\band\b|[;&\n]", answer + reference):
        # "Paris" and "Paris, France" may well be the same.
        return Verdict.UNDECIDED
    columns = table if short is expected else [list(column) for column in zip(*table, strict=True)]
    covered = all(Verdict.RIGHT in row for row in columns)
    brief = all(len(words_of(item)) <= 2 for item in long)
    return Verdict.WRONG if covered and brief else Verdict.UNDECIDED


def _match_item(answer: str, reference: str) -> Verdict:
    for compare in (_compare_dates, _compare_clocks):
        verdict = compare(answer, reference)
        if verdict is not Verdict.UNDECIDED:
            return verdict
    verdict = _compare_quantities(answer, reference, "")
    if verdict is Verdict.UNDECIDED and normalise(answer) == normalise(reference):
        return Verdict.RIGHT
    return verdict


def _one_to_one(table: list[list[Verdict]]) -> bool:
    """Tell whether every row can have a RIGHT column of its own; equal items make greed safe."""
    free = set(range(len(table)))
    for row in table:
        column = next((i for i in sorted(free) if row[i] is Verdict.RIGHT), None)
        if column is None:
            return False
        free.discard(column)
    return True


def _is_maths(answer: str, reference: str) -> bool:
    """Tell whether both texts are expressions, at least one beyond a plain number."""
    if max(len(answer), len(reference)) > _LONGEST_MATHS:
        return False
    units = {tuple(sorted(_LATEX_TEXT.findall(text))) for text in (answer, reference)}
    quantities = [parse_quantity(text) for text in (answer, reference)]
    if None not in quantities:
        # Numbers with units were compared before; math-verify would drop the units.
        return False
    for text, quantity in zip((answer, reference), quantities, strict=True):
        if quantity is None and _RANGE_OR_DATE.fullmatch(clean(text)):
            # 5-10 is a range and 03/05/2021 a date; neither is a calculation.
            return False
    if len(units) > 1:
        # math-verify drops units, so it would call 1/2 cm and 1/2 kg equal.
        return False
    signs = [_MATHS_SIGN.search(text) is not None for text in (answer, reference)]
    return any(signs) and all(map(_reads_as_maths, (answer, reference)))


def _reads_as_maths(text: str) -> bool:
    plain = _LATEX_COMMAND.sub(" ", _LATEX_TEXT.sub(" ", clean(text))).casefold()
    words = [word for word in re.findall(r"[^\W\d_]+", plain) if len(word) > 2]
    return all(word in _MATHS_WORDS for word in words) and bool(re.search(r"\w", plain + text))


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
