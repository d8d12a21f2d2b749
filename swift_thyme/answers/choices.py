"""Multiple choice: reading options from a question and letters from an answer."""

from __future__ import annotations

import re
from typing import NamedTuple

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
    rf"(?:{_NAMED}(?:is\s*|:\s*)?:?\s*)?(?:[\(\[]([A-J])[\)\]]\s*[.:,-]?|([A-J])\s*[.:)]|([A-J])\s+[-\u2013\u2014=])"
    r"\s*(\S.*)",
    re.DOTALL,
)
_SEVERAL = re.compile(
    rf"{_LETTER}(?:\s*(?:,|;|&|\band\b|\s)\s*(?:and\s+)?{_LETTER})+", re.IGNORECASE
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
    """Compare where the reference, or the answer, is a choice of option letters."""
    options = parse_options(question)
    expected = _parse_reference(reference, options)
    if expected is None:
        return _letter_for_text(answer, reference, options)
    if _HEDGED.fullmatch(clean(answer)) is not None:
        return Verdict.WRONG
    given = parse_choice(answer)
    if given is None and len(expected.letters) > 1:
        joined = clean(answer).upper()
        if joined.isalpha() and joined.isascii() and len(set(joined)) == len(joined) <= 10:
            given = Choice(frozenset(joined), "") if set(joined) <= set("ABCDEFGHIJ") else None
    if given is None:
        return _text_for_letter(answer, expected, options)
    if given.letters != expected.letters:
        named = given.text and _names(given.text, expected, options)
        return Verdict.UNDECIDED if named else Verdict.WRONG
    if not given.text or len(expected.letters) > 1:
        return Verdict.RIGHT
    if _names(given.text, expected, options):
        return Verdict.RIGHT
    known = expected.text or options
    return Verdict.UNDECIDED if known else Verdict.RIGHT


def _names(text: str, expected: Choice, options: dict[str, str]) -> bool:
    """Tell whether a text is what stands behind the one expected letter."""
    if len(expected.letters) != 1:
        return False
    (letter,) = expected.letters
    wanted = {normalise(x) for x in (expected.text, options.get(letter, "")) if x}
    return normalise(text) in wanted


def _text_for_letter(answer: str, expected: Choice, options: dict[str, str]) -> Verdict:
    if _names(answer, expected, options):
        return Verdict.RIGHT
    others = {normalise(text) for text in options.values()}
    return Verdict.WRONG if normalise(answer) in others else Verdict.UNDECIDED


def _letter_for_text(answer: str, reference: str, options: dict[str, str]) -> Verdict:
    """Compare a letter with a reference that is the text of an option."""
    given = parse_choice(answer)
    if not options or given is None or len(given.letters) != 1:
        return Verdict.UNDECIDED
    (letter,) = given.letters
    if letter not in options:
        return Verdict.UNDECIDED
    texts = {key: normalise(text) for key, text in options.items()}
    wanted = normalise(reference)
    if wanted not in texts.values():
        return Verdict.UNDECIDED
    if given.text and normalise(given.text) != texts[letter]:
        return Verdict.UNDECIDED
    return Verdict.RIGHT if texts[letter] == wanted else Verdict.WRONG
