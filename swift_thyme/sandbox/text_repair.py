"""Repairs of a program's text, tried only where it does not parse.

Indentation is never derived from colons and print formats are never rewritten.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable

__all__ = ["repair_text"]

_CODE_TAG = re.compile(r"\A\s*<code>|</code>\s*\Z", re.IGNORECASE)
_FENCE_LINE = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\r?\n?|\s*```\s*\Z", re.IGNORECASE)
_CHARACTERS = {
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2009\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), None),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u2032"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u2033"), '"'),
    **dict.fromkeys(map(ord, "\u2012\u2013\u2212"), "-"),
    **{
        ord(wide): narrow
        for wide, narrow in zip(
            "\uff08\uff09\uff0c\uff1a\uff1b\uff1d\u00d7", "(),:;=*", strict=True
        )
    },
}


def _parse(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _strip_code_tags(code: str) -> str:
    return _CODE_TAG.sub("", code)


def _strip_fence(code: str) -> str:
    return _FENCE_LINE.sub("", code.strip("\r\n"))


_CURLY = {"\u2018": "\u2018\u2019\u201a\u2032'", "\u201c": '\u201c\u201d\u201e\u2033"'}
_CURLY |= {quote: ends for ends in [*_CURLY.values()] for quote in ends[:-1]}
"""A quotation mark that is none of Python's -> the ones that end a string which it begins."""


def _normalise_everything(code: str) -> str:
    return code.translate(_CHARACTERS)


def _normalise_outside_strings(code: str) -> str:
    """Replace characters of the code itself; strings and comments stay as they are."""
    parts: list[str] = []
    position = 0
    while position < len(code):
        character = code[position]
        if character == "#":
            end = code.find("\n", position)
            end = len(code) if end < 0 else end
            parts.append(code[position:end])
        elif character in "\"'":
            end = _end_of_string(code, position)
            parts.append(code[position:end])
        elif character in _CURLY:
            ends = _CURLY[character]
            end = position + 1
            while end < len(code) and code[end] not in ends and code[end] != "\n":
                end += 1
            parts.append(ends[-1] + code[position + 1 : end] + ends[-1])
            end += 1
        else:
            end = position + 1
            parts.append(character.translate(_CHARACTERS))
        position = end
    return "".join(parts)


def _end_of_string(code: str, start: int) -> int:
    """Return where a string ends that begins with a quotation mark of Python's."""
    quote = code[start]
    if code.startswith(quote * 3, start):
        quote *= 3
    position = start + len(quote)
    while position < len(code):
        if code[position] == "\\":
            position += 2
        elif code.startswith(quote, position):
            return position + len(quote)
        elif len(quote) == 1 and code[position] == "\n":
            return position
        else:
            position += 1
    return len(code)


def _indent_first_line(code: str) -> str:
    """Give the first line the indentation of the lines after it, which must agree themselves."""
    first, _, rest = code.strip("\r\n").partition("\n")
    return f"{first.lstrip()}\n{textwrap.dedent(rest)}"


_TEXT_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("strip_code_tags", _strip_code_tags),
    ("strip_fence", _strip_fence),
    ("dedent", textwrap.dedent),
    ("indent_first_line", _indent_first_line),
    ("normalise_characters", _normalise_outside_strings),
    ("normalise_characters", _normalise_everything),
)


def repair_text(code: str) -> tuple[str, ast.Module, list[str]]:
    """Return a text that parses, its tree, and the names of what was done to it.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: Nothing makes it parse; the error is
            that of the program as it was written.
    """
    tree = _parse(code)
    if tree is not None:
        return code, tree, []
    for name, change in _TEXT_REPAIRS:
        changed = change(code)
        tree = _parse(changed) if changed != code else None
        if tree is not None:
            return changed, tree, [name]
    text = code
    applied: list[str] = []
    for name, change in _TEXT_REPAIRS:
        changed = change(text)
        if changed != text:
            text, applied = changed, list(dict.fromkeys([*applied, name]))
            tree = _parse(text)
            if tree is not None:
                return text, tree, applied
    return code, ast.parse(code), []
