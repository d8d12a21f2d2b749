"""The order in which options are shown: one rule, for training rows and for evaluation.

In published files the right option can be the first one everywhere (V*). A model that is trained on
such rows learns a letter, and one that is evaluated on them is measured by its liking for it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping

__all__ = ["ORDER_VERSION", "AnswerBalance", "option_order"]

ORDER_VERSION = 2
"""Changes when the same key would give another order."""

# "None of the above" means something else in another place; "above the table" does not.
_PINNED = re.compile(
    r"\b(?:none of|all of|both of|neither|(?:does not|doesn't|not) feature"
    r"|(?:all|none|both|the|options?|choices?|answers?) (?:above|below)"
    r"|(?:above|below) (?:options?|choices?|answers?))\b",
    re.IGNORECASE,
)
# "Both A and B", "A, B and C", "options B or C", "only A".
_NAMES_LETTERS = re.compile(
    r"\b(?i:options?|choices?|answers?) \(?[A-Z]\b"
    r"|^\s*(?i:both|neither|either|only) \(?[A-Z]\)?(?=\W*$|\W+(?:and|or|nor)\b)"
    r"|^\s*\(?[A-Z]\)?(?:(?:\s*[,&+]\s*(?:and |or )?| and | or )\(?[A-Z]\)?)+\W*$"
)


def option_order(options: Mapping[str, str], question: str, key: str) -> tuple[str, ...]:
    """Return the letters of the options in the order in which they are shown.

    Options that refer to others ("none of the above") keep their place, and no option passes them.
    Where one names others by their letters ("both A and B"), or the question lists the options
    itself, all keep their places.

    Args:
        options: Text of each option by its letter.
        question: The question.
        key: Seed of the order; the same key gives the same order.
    """
    order = list(options)
    # A generator per row: the order does not depend on which rows are asked.
    source = random.Random(key)
    for run in _free_runs(options, question):
        letters = [order[place] for place in run]
        source.shuffle(letters)
        for place, letter in zip(run, letters, strict=True):
            order[place] = letter
    return tuple(order)


class AnswerBalance:
    """Puts the right option under each letter equally often.

    Chance alone leaves a file of 24 rows with a letter that is right in four of ten rows every
    other time. Rows with the same choice of places are balanced among themselves, so that the
    number of options says nothing about the letter either.

    Args:
        keep: Whether a row that fits the balance as it stands in its file keeps its order. Where a
            file has a balance for each of its parts, only the first may: every part begins with
            a row that fits.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._placed: dict[tuple[int, ...], Counter[int]] = {}
        self._all: Counter[int] = Counter()

    def order(
        self, options: Mapping[str, str], question: str, answer: str, key: str
    ) -> tuple[str, ...]:
        """Return the letters in the order in which they are shown, as :func:`option_order`.

        Args:
            options: Text of each option by its letter.
            question: The question.
            answer: Letter of the right option.
            key: Seed of the order.
        """
        original = tuple(options).index(answer)
        run = next((r for r in _free_runs(options, question) if original in r), [original])
        placed = self._placed.setdefault(tuple(run), Counter())
        places = random.Random(key).sample(run, len(run))
        target = min(places, key=lambda i: (placed[i], self._all[i], self._keep and i != original))
        placed[target] += 1
        self._all[target] += 1
        if self._keep and target == original:
            return tuple(options)
        order = list(option_order(options, question, key))
        place = order.index(answer)
        order[place], order[target] = order[target], order[place]
        return tuple(order)


def _free_runs(options: Mapping[str, str], question: str) -> Iterator[list[int]]:
    """Yield the places among which options may change, as runs between those that keep theirs."""
    texts = list(options.values())
    if any(_NAMES_LETTERS.search(text) for text in texts) or _lists(question, options):
        return
    run: list[int] = []
    for place, text in enumerate(texts):
        if _PINNED.search(text):
            yield run
            run = []
        else:
            run.append(place)
    yield run


def _lists(question: str, options: Mapping[str, str]) -> bool:
    """Tell whether a question holds each option behind its letter."""
    return all(
        re.search(rf"(?<!\w)\(?{letter}[).:]\s*{re.escape(text)}", question)
        for letter, text in options.items()
    )
