"""What a row asks and what is right: one reading, for training rows and for evaluation.

Rows come as text (TSV, where pandas writes a missing cell as ``nan``) or as values (JSONL,
parquet). A row is read whole or rejected with its reason; nothing is dropped in silence, because a
question that has lost its options would be trained on all the same.
"""

from __future__ import annotations

import ast
import io
import math
import re
import string
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = [
    "ANSWER_COLUMNS",
    "IMAGE_COLUMNS",
    "OPTION_COLUMNS",
    "Question",
    "image_values",
    "is_missing",
    "read_question",
    "text_cell",
]

ANSWER_COLUMNS = ("answer", "solution", "answers")
IMAGE_COLUMNS = ("image", "images", "image_path")
OPTION_COLUMNS = ("multi-choice options", "options", "choices")
"""Columns that hold all options of a question; used where the columns A, B, ... are empty."""

_LETTERS = string.ascii_uppercase
_LISTED_OPTION = re.compile(r"\s*\(?([A-Z])[).:]\s*(.*)", re.DOTALL)
_NO_COMMA = re.compile(r"""['"]\s+['"]""")
_PANDAS_MISSING = ("nan", "NaN", "<NA>")
"""How pandas writes a missing cell. ``Nan`` and ``None`` are words."""


@dataclass(frozen=True, slots=True)
class Question:
    """The text side of a row."""

    text: str
    """The question, without ``<image>`` tags, hint and options."""
    hint: str
    """Goes before the question; empty where there is none."""
    options: Mapping[str, str]
    """Text of each option by its letter, A, B and so on; empty for an open question."""
    references: tuple[str, ...]
    """Equally good answers, at least one; of a question with options the right letter alone."""


def is_missing(value: Any) -> bool:
    """Tell whether a cell holds nothing: null, a number that is none, or blanks."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def text_cell(values: Mapping[str, Any], names: Sequence[str], empty: Reason) -> str:
    """Return the text of the first of some columns that is filled.

    Args:
        values: The row.
        names: The columns, the preferred one first.
        empty: The reason where the text is blank.

    Raises:
        RowRejected: No column is filled, or it holds no text.
    """
    name = _filled(values, names)
    value = values.get(name) if name else None
    if name is None or (is_missing(value) and not isinstance(value, str)):
        shown = " or ".join(map(repr, names))
        raise RowRejected(Reason.MISSING_COLUMN, f"the cell {shown} is empty or missing")
    text = _plain(value, name)
    if not text.replace(IMAGE_TAG, "").strip() or text.strip() in _PANDAS_MISSING:
        raise RowRejected(empty, f"the cell {name!r} is empty ({text[:40]!r})")
    return text


def read_question(values: Mapping[str, Any]) -> Question:
    """Return the question, the options and the answer of a row.

    Args:
        values: The columns of the row.

    Raises:
        RowRejected: The row cannot be used; the detail says why.
    """
    text = text_cell(values, ("question",), Reason.EMPTY_QUESTION)
    hint = values.get("hint")
    has_hint = not is_missing(hint) and str(hint).strip() not in _PANDAS_MISSING
    answers = _answers(values)
    options = _options(values, answers)
    if options:
        letters = {_option_letter(answer, options) for answer in answers}
        if len(letters) > 1:
            shown = ", ".join(sorted(letters))
            raise RowRejected(Reason.ANSWER_NO_OPTION, f"the answer is several options: {shown}")
        answers = tuple(letters)
    elif answers[0] in _PANDAS_MISSING:
        detail = f"the answer is {answers[0]!r}, which is how a missing value is written"
        raise RowRejected(Reason.EMPTY_ANSWER, detail)
    return Question(
        text=text.replace(IMAGE_TAG, "").strip(),
        hint=str(hint).strip() if has_hint else "",
        options=options,
        references=answers,
    )


def image_values(values: Mapping[str, Any]) -> list[Any]:
    """Return the images of a row as they stand there, in order; empty where it has none.

    A list may be a list or, as in TSV files, the text of one.

    Raises:
        RowRejected: The text of a list cannot be read, or an image in a list is missing.
    """
    name = _filled(values, IMAGE_COLUMNS)
    if name is None or is_missing(values[name]):
        return []
    value = values[name]
    if isinstance(value, str):
        value = value.strip()
        if value in _PANDAS_MISSING:
            return []
        if value.startswith("["):
            listed = string_list(value)
            if not listed and value.strip("[] \t\r\n"):
                detail = f"the cell {name!r} is an unreadable list: {value[:40]!r}"
                raise RowRejected(Reason.WRONG_TYPE, detail)
            value = listed
    if not isinstance(value, (list, tuple)):
        return [value]
    for number, image in enumerate(value, 1):
        if is_missing(image):
            raise RowRejected(Reason.IMAGE_EMPTY, f"image {number} of the cell {name!r} is empty")
    return list(value)


def string_list(text: str) -> list[str]:
    """Return a list of strings that is written as a Python or JSON list; else an empty one.

    An array of numpy, as pandas writes it, has no commas.
    """
    if not text.startswith("["):
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return []
    if _NO_COMMA.search(text):
        # Python reads two strings side by side as one.
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        parts = [token.string for token in tokens if token.type == tokenize.STRING]
        if len(parts) > len(value) == 1:
            return [ast.literal_eval(part) for part in parts]
    return value


def _filled(values: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return the first column that is filled; else one that is blank, else None."""
    there = [name for name in names if values.get(name) is not None]
    return next((name for name in there if not is_missing(values[name])), next(iter(there), None))


def _plain(value: Any, name: str) -> str:
    if isinstance(value, float) and value.is_integer():
        # A column of whole numbers in which one is missing becomes one of fractions.
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        shown = value if isinstance(value, float) else f"of type {type(value).__name__}"
        raise RowRejected(Reason.WRONG_TYPE, f"{name} is {shown}")
    return value


def _answers(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the answers as they stand there, each once."""
    name = _filled(values, ANSWER_COLUMNS)
    value = values.get(name) if name else None
    if name is not None and isinstance(value, (list, tuple)):
        listed = [_plain(item, name).strip() for item in value if not is_missing(item)]
        listed = [item for item in listed if item not in _PANDAS_MISSING]
        if not listed:
            raise RowRejected(Reason.EMPTY_ANSWER, f"the list {name!r} holds no answer")
        return tuple(dict.fromkeys(listed))
    if name is None or is_missing(value):
        filled = " or ".join(map(repr, ANSWER_COLUMNS[:2]))
        reason = Reason.EMPTY_ANSWER if isinstance(value, str) else Reason.MISSING_COLUMN
        raise RowRejected(reason, f"the cell {filled} is empty or missing")
    text = _plain(value, name).strip()
    if not text.replace(IMAGE_TAG, "").strip():
        raise RowRejected(Reason.EMPTY_ANSWER, f"the cell {name!r} is {text[:40]!r}")
    if text.startswith("[") and not text.strip("[] \t\r\n"):
        raise RowRejected(Reason.EMPTY_ANSWER, f"the list {name!r} holds no answer")
    return _answers({name: listed}) if (listed := string_list(text)) else (text,)


def _options(values: Mapping[str, Any], answers: Sequence[str]) -> dict[str, str]:
    options = _lettered(values, answers)
    if not options:
        name = _filled(values, OPTION_COLUMNS)
        if name is not None and not is_missing(values[name]):
            options = _listed(values[name], name, answers)
    if options and ("".join(options) != _LETTERS[: len(options)] or len(options) == 1):
        detail = f"options {', '.join(options)}: expected A, B and so on, at least two"
        raise RowRejected(Reason.BAD_OPTIONS, detail)
    return options


def _lettered(values: Mapping[str, Any], answers: Sequence[str]) -> dict[str, str]:
    options = {
        letter: _plain(values[letter], f"option {letter}").strip()
        for letter in _LETTERS
        if not is_missing(values.get(letter))
    }
    # The options that a question with fewer of them lacks are its last ones. A "nan" before
    # another option, or the right one, is a word.
    for letter in reversed(list(options)):
        if options[letter] not in _PANDAS_MISSING or letter in answers:
            break
        del options[letter]
    return options


def _listed(value: Any, name: str, answers: Sequence[str]) -> dict[str, str]:
    if isinstance(value, Mapping):
        return _lettered(value, answers)
    if isinstance(value, str):
        text = value.strip()
        if text in _PANDAS_MISSING or text == "[]":
            return {}
        entries = string_list(text)
        # Lines may have a heading, which is no option.
        lines = entries or [line for line in text.splitlines() if _LISTED_OPTION.fullmatch(line)]
    elif isinstance(value, (list, tuple)):
        if any(is_missing(entry) for entry in value):
            raise RowRejected(Reason.BAD_OPTIONS, f"an option of {name!r} is empty")
        lines = [_plain(entry, name) for entry in value]
        if not lines:
            return {}
    else:
        lines = []
    found = [_LISTED_OPTION.fullmatch(line) for line in lines]
    labelled = [(match[1], match[2].strip()) for match in found if match is not None]
    if not labelled and 1 < len(lines) <= len(_LETTERS):
        labelled = [(_LETTERS[i], line.strip()) for i, line in enumerate(lines)]
    options = dict(labelled)
    if not labelled or len(options) < len(lines) or not all(options.values()):
        detail = f"no options can be read from {name!r}: {str(value)[:80]!r}"
        raise RowRejected(Reason.BAD_OPTIONS, detail)
    return options


def _option_letter(answer: str, options: Mapping[str, str]) -> str:
    """Return the letter of the option that an answer names by its letter, its text, or both."""
    bare = answer.strip("(). ")
    if bare in options:
        return bare
    labelled = _LISTED_OPTION.fullmatch(answer)
    if labelled is not None and _same(options.get(labelled[1], ""), labelled[2]):
        return labelled[1]
    same = [letter for letter, text in options.items() if text == answer]
    same = same or [letter for letter, text in options.items() if _same(text, answer)]
    if len(same) == 1:
        return same[0]
    if not same and bare.upper() in options:
        return bare.upper()
    detail = f"the answer {answer[:80]!r} is not one of the options {', '.join(options)}"
    raise RowRejected(Reason.ANSWER_NO_OPTION, detail)


def _same(left: str, right: str) -> bool:
    def folded(text: str) -> str:
        return " ".join(text.casefold().split()).rstrip(".")

    return folded(left) == folded(right)
