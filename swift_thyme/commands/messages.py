"""Sentences on a terminal: as they are, whatever they hold.

rich reads ``[...]`` in a string as markup and ``:name:`` as a picture. Paths, model names, hints
(``swift_thyme[swift]``) and text of others hold both, so all of it goes out as plain text.
"""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

__all__ = ["error", "note", "plain", "say", "warn"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Return the text without characters that drive a terminal; line breaks and tabs stay."""
    return _CONTROL.sub("", text)


def say(text: str, style: str = "", *, console: Console | None = None) -> None:
    """Print a sentence.

    Args:
        text: Printed as it is, without control characters.
        style: Of all of it.
        console: Where to; None is standard output.
    """
    console = console or Console()
    console.print(Text(plain(text), style), soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """Print a sentence to standard error."""
    say(text, console=Console(stderr=True))


def warn(text: str) -> None:
    """Print a sentence to standard error that the user should not miss."""
    say(text, "yellow", console=Console(stderr=True))


def error(text: str) -> None:
    """Print the reason for which a command ends."""
    line = Text.assemble(("error:", "red"), f" {plain(text)}")
    Console(stderr=True).print(line, soft_wrap=True, highlight=False)
