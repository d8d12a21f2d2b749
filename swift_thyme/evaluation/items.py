"""From a row to a question: the order of its options, and the words it is asked in."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from swift_thyme.evaluation.tsv import Item

__all__ = ["PromptStyle", "Shown", "show"]

# "None of the above" means something else in another place.
_PINNED = re.compile(
    r"\b(?:above|below|none of|all of|both of|neither|(?:does not|doesn't|not) feature"
    r"|(?:options?|choices?) [A-Z])\b|^(?:both|neither) [A-Z]\b",
    re.IGNORECASE,
)


class PromptStyle(str, Enum):
    """What of a multiple-choice question the model is shown."""

    OPTIONS = "options"
    """Question and options, in VLMEvalKit's words."""
    QUESTION = "question"
    """The question alone; the answer is matched with the texts of the options."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row as it is asked in one run."""

    item: Item
    question: str
    """What the model is asked."""
    order: tuple[str, ...]
    """Original letter of the option shown as A, as B, and so on; empty for an open question."""
    style: PromptStyle

    @property
    def options(self) -> dict[str, str]:
        """Text of each option by the letter that is shown."""
        letters = string.ascii_uppercase
        return {letters[i]: self.item.options[original] for i, original in enumerate(self.order)}

    @property
    def answer_letter(self) -> str:
        """The letter under which the right option is shown."""
        return string.ascii_uppercase[self.order.index(self.item.answer)]

    def original(self, letter: str) -> str:
        """Return the letter in the file of an option that is shown under ``letter``."""
        return self.order[string.ascii_uppercase.index(letter)]


def show(item: Item, *, style: PromptStyle, shuffle: bool, seed: int, run: int) -> Shown:
    """Return a row as it is asked.

    Args:
        item: The row.
        style: What the model is shown.
        shuffle: Whether options change places; those that refer to others keep theirs.
        seed: Seed of the order; each run and row has an order of its own.
        run: Number of the run, from 1.
    """
    order = list(item.options)
    if shuffle:
        free = [i for i, letter in enumerate(order) if not _PINNED.search(item.options[letter])]
        letters = [order[i] for i in free]
        # A generator per row: the order does not depend on which rows are asked.
        random.Random(f"{seed}/{run}/{item.index}").shuffle(letters)
        for place, letter in zip(free, letters, strict=True):
            order[place] = letter
    texts = {string.ascii_uppercase[i]: item.options[letter] for i, letter in enumerate(order)}
    return Shown(item, _question(item, texts, style), tuple(order), style)


def _question(item: Item, options: Mapping[str, str], style: PromptStyle) -> str:
    hint = f"Hint: {item.hint}\n" if item.hint else ""
    if not options or style is PromptStyle.QUESTION:
        return f"{hint}{item.question}"
    listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    return (
        f"{hint}Question: {item.question}\nOptions:\n{listed}"
        "Please select the correct answer from the options above."
    )
