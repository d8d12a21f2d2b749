"""From a row to a question: the order of its options, and the words it is asked in."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from swift_thyme.data.option_order import option_order
from swift_thyme.evaluation.tsv import Item

__all__ = ["PromptStyle", "Shown", "show"]


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
    order = tuple(item.options)
    if shuffle:
        order = option_order(item.options, item.question, f"{seed}/{run}/{item.index}")
    texts = {string.ascii_uppercase[i]: item.options[letter] for i, letter in enumerate(order)}
    return Shown(item, _question(item, texts, style), order, style)


def _question(item: Item, options: Mapping[str, str], style: PromptStyle) -> str:
    hint = f"Hint: {item.hint}\n" if item.hint else ""
    if not options or style is PromptStyle.QUESTION:
        return f"{hint}{item.question}"
    listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    return (
        f"{hint}Question: {item.question}\nOptions:\n{listed}"
        "Please select the correct answer from the options above."
    )
