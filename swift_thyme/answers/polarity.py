"""Yes and no: the words, a sentence behind them, a sentence that repeats the question."""

from __future__ import annotations

import re
from enum import Enum

from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import NEGATIONS, clean, words_of

__all__ = ["Polarity", "compare_polarity", "polarity_of"]


class Polarity(Enum):
    """What an answer to a closed question says."""

    YES = "yes"
    NO = "no"
    TRUE = "true"
    FALSE = "false"


_LEAD = re.compile(
    r"(yes|yeah|yep|yup|no|nope|true|false)(?:\s*[,.;:!\u2013\u2014-]+\s*(.*))?", re.DOTALL
)
_SAME = {"yeah": "yes", "yep": "yes", "yup": "yes", "nope": "no"}
_TURNS = frozenset(
    "but however yes yeah true false or unless although though maybe perhaps except until without "
    "doubt unsure unclear sure possibly probably only partly wait actually wrong incorrect".split()
)
_NEGATIONS = NEGATIONS | frozenset("nothing nobody nowhere hardly barely".split())
_OPPOSITES = (
    "open closed",
    "open shut",
    "on off",
    "left right",
    "full empty",
    "up down",
    "above below",
    "inside outside",
    "same different",
    "more less",
    "more fewer",
    "larger smaller",
    "bigger smaller",
    "taller shorter",
    "higher lower",
    "day night",
    "sitting standing",
    "old young",
    "hot cold",
    "wet dry",
    "clean dirty",
    "alive dead",
    "true false",
)
_OPPOSITE: dict[str, set[str]] = {}
for _pair in _OPPOSITES:
    _one, _other = _pair.split()
    _OPPOSITE.setdefault(_one, set()).add(_other)
    _OPPOSITE.setdefault(_other, set()).add(_one)
_AUXILIARIES = frozenset(
    "is are was were do does did has have had can could will would should must".split()
)


def polarity_of(text: str, question: str = "") -> Polarity | None:
    """Return what a text says, None where that is not certain.

    A sentence behind the word has to agree with it: "Yes, it is not open" and "No, it is open" to
    "Is it open?" do not.
    """
    text = text.replace("\u2019", "'")
    match = _LEAD.fullmatch(clean(text).casefold())
    if match is None:
        return _echo(text, question)
    said = Polarity(_SAME.get(match.group(1), match.group(1)))
    rest = match.group(2) or ""
    if match.group(1) == "no" and re.match(r"[#\d]", rest):
        # "No. 5" is a number.
        return None
    words = words_of(rest)
    return said if _agrees(said, words, words_of(question)) else None


def _negated(words: list[str]) -> int:
    return sum(word in _NEGATIONS or word.endswith("n't") for word in words)


def _agrees(said: Polarity, words: list[str], question: list[str]) -> bool:
    if _TURNS.intersection(words):
        return False
    negations = _negated(words)
    asked = set(question)
    crossed = any(_OPPOSITE.get(word, set()) & asked for word in words if word not in asked)
    if said in (Polarity.YES, Polarity.TRUE):
        return not negations and not crossed
    if negations:
        # "No, it is not closed" may mean both; so may a second negation.
        return negations == 1 and not crossed and not _negated(question)
    # Without a negation it must not be what the question says.
    return not words or not question or not set(words) <= asked | {"it", "they", "there", "that"}


def _echo(text: str, question: str) -> Polarity | None:
    """Read "The door is (not) open" as the answer to "Is the door open?"."""
    asked, words = words_of(question), words_of(text)
    if len(asked) < 3 or asked[0] not in _AUXILIARIES or question.count("?") > 1:
        return None
    if not question.strip().endswith("?") or _negated(asked) or "or" in asked:
        return None
    auxiliary, wanted = asked[0], asked[1:]
    no = False
    plain: list[str] = []
    for word in words:
        if word == f"{auxiliary}n't":
            if no:
                return None
            no = True
            plain.append(auxiliary)
        elif word == "not" and plain[-1:] == [auxiliary]:
            if no:
                return None
            no = True
        elif word == "no" and plain[-1:] == [auxiliary] and "a" in wanted:
            if no:
                return None
            no = True
            plain.append("a")
        else:
            plain.append(word)
    for index, word in enumerate(plain):
        if word == auxiliary and index and plain[:index] + plain[index + 1 :] == wanted:
            return Polarity.NO if no else Polarity.YES
    return None


def compare_polarity(answer: str, reference: str, question: str) -> Verdict:
    """Compare where the reference is one of yes, no, true and false."""
    expected = polarity_of(reference)
    if expected is None or len(words_of(reference)) > 1:
        return Verdict.UNDECIDED
    given = polarity_of(answer, question)
    pairs = ({Polarity.YES, Polarity.NO}, {Polarity.TRUE, Polarity.FALSE})
    if given is None or not any({given, expected} <= pair for pair in pairs):
        return Verdict.UNDECIDED
    return Verdict.RIGHT if given is expected else Verdict.WRONG
