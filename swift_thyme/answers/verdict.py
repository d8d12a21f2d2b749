"""The three things that can be said about an answer without being sure of more."""

from __future__ import annotations

from enum import Enum

__all__ = ["Verdict"]


class Verdict(Enum):
    """Outcome of comparing an answer with a reference."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"
    """The rules cannot tell; a judge has to."""
