"""One line of a report: what was found, how it is meant, and what to do about it.

``thyme doctor`` reports on the machine, the preflight of a job on its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "State"]


class State(str, Enum):
    """How a finding is meant."""

    OK = "ok"
    LOOK = "look"
    """Works without it, or perhaps not as tested or meant."""
    BROKEN = "broken"
    """Needed or asked for, and does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report."""

    subject: str
    state: State
    text: str
    """What was found."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""

    @property
    def line(self) -> str:
        """The finding as one line, without its state."""
        advice = f" -> {self.advice}" if self.advice else ""
        return " ".join(f"{self.subject}: {self.text}{advice}".splitlines())
