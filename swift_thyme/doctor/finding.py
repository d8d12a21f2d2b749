"""What a report consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

__all__ = ["Check", "Finding", "State"]


class State(str, Enum):
    """How a finding is meant."""

    OK = "ok"
    LOOK = "look"
    """Works without it, or perhaps not as tested."""
    BROKEN = "broken"
    """Needed or asked for, and does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    state: State
    text: str
    """What was found."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""


class Check(NamedTuple):
    """A part of the report."""

    section: str
    run: Callable[[float], Iterable[Finding]]
    """Takes the longest wait in seconds for whatever it waits for."""
