"""Multiple choice: reading options from a question and letters from an answer."""

from __future__ import annotations

import re
from typing import NamedTuple

from swift_thyme.answers.quantities import compare_quantities, parse_quantity
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import clean, normalise

__all__ = ["Choice", "parse_options", "parse_choice", "compare_choice"]


class Choice(NamedTuple):
    """Letters that an answer picks, and what it says besides."""

    letters: frozenset[str]
    text: str
    """Words after the letter ("A. black" has "black"), empty without any."""


_MARKED = re.compile(
    r"(?:(?<=\A)|(?<=[\n\t ,;]))(?:\(([A-J])\)|([A-J])[.):])[ \t]+(?=\S)(?![A-J][.):])"
)
_OPTION_END = re.compile(r"\n|\Z")
_LETTER = r"[\(\[]?([A-Ja-j])[\)\]]?"
_NAMED = r"(?:(?:the\s+)?(?:correct\s+|right\s+|best\s+|final\s+)?(?:option|choice|answer)\s*)"
_SINGLE = re.compile(rf"(?:{_NAMED}(?:is\s*|:\s*)?:?\s*)?{_LETTER}\s*[.:)]?", re.IGNORECASE)
_CONFIRMED = re.compile(
    rf"(?:{_NAMED})?{_LETTER}\s+is\s+(?:the\s+)?(?:correct|right|best)"
    r"(?:\s+(?:one|answer|option|choice))?\.?",
    re.IGNORECASE,
)
_WITH_TEXT = re.compile(
    rf"(?i:{_NAMED}(?:is\s*|:\s*)?:?\s*)?(?:[\(\[]([A-J])[\)\]]\s*[.:,-]?|([A-J])\s*[.:)]|([A-J])\s+[-\u2013\u2014=])"
    r"\s*(\S.*)",
    re.DOTALL,
)
# "B blue", "B, blue", "B (blue)": a letter only where the text is an option.
_LOOSE = re.compile(
    rf"(?i:{_NAMED}(?:is\s*|:\s*)?:?\s*)?(?P<bracket>[\(\[])?(?P<letter>[A-Ja-j])(?(bracket)[\)\]])"
    r"(?P<between>\s*[.:),;=\u2013\u2014-]\s*|\s+is\s+|\s+|\s*(?=[\(\[]))(?P<text>\S.*)",
    re.DOTALL,
)
_TEXT_FIRST = re.compile(r"(?P<text>\S.*?)\s*[\(\[](?P<letter>[A-J])[\)\]]", re.DOTALL)
_SEVERAL = re.compile(
    rf"(?:both\s+)?{_LETTER}(?:\s*(?:,|;|&|\band\b|\s)\s*(?:and\s+)?{_LETTER})+", re.IGNORECASE
)
_HEDGED = re.compile(rf"{_LETTER}(?:\s*(?:\bor\b|/)\s*{_LETTER})+", re.IGNORECASE)
_ANY_LETTER = re.compile(r"(?<![A-Za-z])[A-Ja-j](?![A-Za-z])")


def parse_options(question: str) -> dict[str, str]:
    """Return the options that a question lists, by letter; empty where it lists none.

    Letters must start at A and follow each other, which keeps initials and abbreviations out.
    """
    marks = list(_MARKED.finditer(question))
    found: dict[str, str] = {}
    expected = ord("A")
    chosen = []
    for mark in marks:
        letter = mark.group(1) or mark.group(2)
        if ord(letter) == expected:
            chosen.append((letter, mark))
            expected += 1
        elif letter == "A":
            chosen, expected = [(letter, mark)], ord("B")
    for index, (letter, mark) in enumerate(chosen):
        line_end = _OPTION_END.search(question, mark.end())
        end = line_end.start() if line_end is not None else len(question)
        if index + 1 < len(chosen):
            end = min(end, chosen[index + 1][1].start())
        found[letter] = question[mark.end() : end].strip().rstrip(",;")
    return found if len(found) >= 2 else {}


def parse_choice(text: str) -> Choice | None:
    """Return the letters that a text picks; None where it is not a choice of letters."""
    text = clean(text)
    for pattern in (_SINGLE, _CONFIRMED):
        match = pattern.fullmatch(text)
        if match is not None:
            return Choice(frozenset(match.group(1).upper()), "")
    if _SEVERAL.fullmatch(text) is not None:
        tail = re.sub(r"(?i)\band\b", " ", text)
        return Choice(frozenset(x.upper() for x in _ANY_LETTER.findall(tail)), "")
    match = _WITH_TEXT.fullmatch(text)
    if match is not None:
        letter = match.group(1) or match.group(2) or match.group(3)
        return Choice(frozenset(letter), match.group(4).strip())
    return None


def _parse_reference(reference: str, options: dict[str, str]) -> Choice | None:
    choice = parse_choice(reference)
    stripped = reference.strip()
    if choice is None:
        # "ACD": only next to listed options can it be more than a word.
        letters = set(stripped)
        if options and len(letters) == len(stripped) > 1 and letters <= set(options):
            return Choice(frozenset(letters), "")
        return None
    if stripped == stripped.lower() and not options:
        return None
    if choice.text and not options and normalise(choice.text) == normalise(reference):
        return None
    return choice


def compare_choice(answer: str, reference: str, question: str) -> Verdict:
    """Compare where the reference, or the answer, is a choice of option letters.

    What stands beside a letter counts as read only where it is the text of that letter's option.
    """
    options = parse_options(question)
    expected = _parse_reference(reference, options)
    if expected is None:
        return _letter_for_text(answer, reference, options, question)
    if _HEDGED.fullmatch(clean(answer)) is not None:
        return Verdict.WRONG
    known = dict(options)
    if expected.text and len(expected.letters) == 1:
        known.setdefault(next(iter(expected.letters)), expected.text)
    given = parse_choice(answer)
    if given is None and len(expected.letters) > 1:
        joined = clean(answer).upper()
        if joined.isalpha() and joined.isascii() and len(set(joined)) == len(joined) <= 10:
            given = Choice(frozenset(joined), "") if set(joined) <= set("ABCDEFGHIJ") else None
    if given is None:
        given = _loose_choice(answer, known, question)
    if given is None:
        return _text_for_letter(answer, expected, known, question)
    agrees = _agrees(given, known, question)
    if given.letters != expected.letters:
        return Verdict.WRONG if agrees else Verdict.UNDECIDED
    return Verdict.RIGHT if agrees or len(expected.letters) > 1 else Verdict.UNDECIDED


def _agrees(given: Choice, known: dict[str, str], question: str) -> bool:
    """Tell whether the text beside the letters is theirs; without options only letters count."""
    if not given.text or not known:
        return True
    return given.letters <= _named(given.text, known, question)


def _named(text: str, known: dict[str, str], question: str) -> frozenset[str]:
    """Return the letters of the options that a text is: the same words, else the same quantity."""
    inner = re.fullmatch(r"[\(\[]([^()\[\]]*)[\)\]]", text.strip(), re.DOTALL)
    bare = inner.group(1) if inner is not None else text
    wanted = {normalise(text), normalise(bare)}
    same = frozenset(letter for letter, option in known.items() if normalise(option) in wanted)
    quantity = parse_quantity(bare)
    if same or quantity is None:
        return same
    found = set()
    for letter, option in known.items():
        other = parse_quantity(option)
        if other is not None and compare_quantities(other, quantity, question) is Verdict.RIGHT:
            found.add(letter)
    return frozenset(found)


def _loose_choice(answer: str, known: dict[str, str], question: str) -> Choice | None:
    """Read a letter and text with little between them, where the text is an option."""
    cleaned = clean(answer)
    if any(cleaned.casefold() == option.strip().casefold() for option in known.values()):
        # "A cat" may be an option itself.
        return None
    for pattern in (_LOOSE, _TEXT_FIRST):
        match = pattern.fullmatch(cleaned)
        if match is None:
            continue
        text, letter = match.group("text").strip(), match.group("letter")
        article = pattern is _LOOSE and letter == "a" and not match.group("between").strip()
        if not article and _named(text, known, question):
            return Choice(frozenset(letter.upper()), text)
    return None


def _text_for_letter(
    answer: str, expected: Choice, known: dict[str, str], question: str
) -> Verdict:
    named = _named(answer, known, question)
    if len(expected.letters) == 1 and expected.letters <= named:
        return Verdict.RIGHT
    return Verdict.WRONG if named else Verdict.UNDECIDED


def _letter_for_text(
    answer: str, reference: str, options: dict[str, str], question: str
) -> Verdict:
    """Compare a letter with a reference that is the text of an option."""
    given = parse_choice(answer) or _loose_choice(answer, options, question)
    if not options or given is None or len(given.letters) != 1 or not given.letters <= set(options):
        return Verdict.UNDECIDED
    wanted = _named(reference, options, question)
    if not wanted or not _agrees(given, options, question):
        return Verdict.UNDECIDED
    return Verdict.RIGHT if given.letters <= wanted else Verdict.WRONG
