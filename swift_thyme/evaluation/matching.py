"""Which option an answer picks, and whether it is right: by rules, the rewards' own."""

from __future__ import annotations

from dataclasses import dataclass

from swift_thyme.answers.rules import MathsCheck, match_answer
from swift_thyme.answers.verdict import Verdict
from swift_thyme.answers.wording import normalise
from swift_thyme.evaluation.items import PromptStyle, Shown

__all__ = ["Match", "match"]


@dataclass(frozen=True, slots=True)
class Match:
    """What the rules say about an answer."""

    verdict: Verdict
    choice: str | None
    """Original letter of the one option that the answer picks; None where it is none or several,
    or the question is open."""
    prediction: str
    """What goes into VLMEvalKit's files: the choice, or the answer as it is."""
    key: str
    """Equal for answers that say the same; empty where there is no answer."""


def match(shown: Shown, answer: str | None, maths: MathsCheck | None = None) -> Match:
    """Compare an answer with the reference of a row.

    Args:
        shown: The row as it was asked.
        answer: Text of the answer block; None where there was none.
        maths: Compares expressions of open questions; None leaves them undecided.
    """
    if answer is None or not answer.strip():
        return Match(Verdict.WRONG, None, "", "")
    if not shown.order:
        references = shown.item.references
        verdict = match_answer(answer, references, shown.item.question, maths)
        return Match(verdict, None, answer, normalise(answer))
    picked = [letter for letter in shown.options if _picks(shown, answer, letter)]
    choice = shown.original(picked[0]) if len(picked) == 1 else None
    if choice is not None:
        verdict = Verdict.RIGHT if choice == shown.item.answer else Verdict.WRONG
    elif shown.answer_letter in picked:
        # Several options have the same text, and the right one is among them.
        verdict = Verdict.RIGHT
    else:
        verdict = _compare(shown, answer, shown.answer_letter)
    return Match(verdict, choice, choice or answer, choice or normalise(answer))


def _picks(shown: Shown, answer: str, letter: str) -> bool:
    return _compare(shown, answer, letter) is Verdict.RIGHT


def _compare(shown: Shown, answer: str, letter: str) -> Verdict:
    if shown.style is PromptStyle.QUESTION:
        # Nobody showed the letters, so only the texts can be meant.
        return match_answer(answer, shown.options[letter], shown.item.question)
    listed = "\n".join(f"{key}. {_one_line(text)}" for key, text in shown.options.items())
    return match_answer(answer, letter, f"{_one_line(shown.item.question)}\n{listed}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
