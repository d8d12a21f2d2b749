"""How an environment variable is declared; :mod:`swift_thyme.core.variable_table` has them all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

__all__ = [
    "Kind",
    "Value",
    "Variable",
    "count",
    "group",
    "number",
    "seconds",
    "secret",
    "switch",
    "text",
]

Value = bool | int | float | str | tuple[str, ...]
"""A value that was read."""

_MOST = 2**31 - 1
_DAY_S = 86400.0


class Kind(Enum):
    """How the text of a variable is read."""

    SWITCH = "true or false"
    COUNT = "a whole number"
    NUMBER = "a number"
    CHOICE = "one word"
    NAMES = "names, separated by commas"
    TEXT = "text"
    SECRET = "text without blanks"
    """Text that no message repeats."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable."""

    name: str
    kind: Kind
    default: Value | None
    """Value where the variable is not set; None where there is none or where it is computed."""
    meaning: str
    """One sentence, without its full stop."""
    unit: str = ""
    low: float | None = None
    """Smallest value that can be used."""
    high: float | None = None
    """Largest value that can be used."""
    choices: tuple[str, ...] = ()
    """The values that can be used, or the names of which a list can consist."""
    form: str = ""
    """The values that can be used, in words, where kind and range do not say it."""
    computed: str = ""
    """The default in words, where it is computed."""
    owner: str = ""
    """Who else gives this variable its name and meaning; empty for this project."""
    option: str = ""
    """The command-line option that says the same and wins."""
    reader: str = ""
    """The file that reads it."""
    component: str = ""
    """Heading under which the documentation has it."""

    @property
    def expected(self) -> str:
        """The values that can be used and their unit, in words."""
        return f"{self.usable} ({self.unit})" if self.unit else self.usable

    @property
    def usable(self) -> str:
        """The values that can be used, in words."""
        if self.form:
            return self.form
        if self.kind is Kind.CHOICE:
            return " or ".join(self.choices)
        if self.choices:
            return f"names from {', '.join(self.choices)}, separated by commas"
        words: str = self.kind.value
        if self.low is not None and self.high is not None and self.high < _MOST:
            words += f" from {self.low:.10g} to {self.high:.10g}"
        elif self.low is not None:
            words += f" of at least {self.low:.10g}"
        return words


def group(component: str, reader: str, *variables: Variable) -> tuple[Variable, ...]:
    """Return the variables with what they have in common."""
    return tuple(replace(v, component=component, reader=v.reader or reader) for v in variables)


def switch(name: str, default: bool, meaning: str, **more: Any) -> Variable:
    """Declare a switch; ``more`` are further fields."""
    return Variable(name, Kind.SWITCH, default, meaning, **more)


def count(
    name: str,
    default: int | None,
    meaning: str,
    unit: str = "",
    low: float = 1,
    high: float = _MOST,
    **more: Any,
) -> Variable:
    """Declare a whole number; ``more`` are further fields."""
    return Variable(name, Kind.COUNT, default, meaning, unit, low, high, **more)


def number(name: str, default: float, meaning: str, unit: str, low: float, high: float) -> Variable:
    """Declare a number."""
    return Variable(name, Kind.NUMBER, default, meaning, unit, low, high)


def seconds(name: str, default: float, meaning: str) -> Variable:
    """Declare a time that is more than nothing and less than a day."""
    return number(name, default, meaning, "seconds", 0.001, _DAY_S)


def text(name: str, meaning: str, form: str = "", **more: Any) -> Variable:
    """Declare a text without a default; ``more`` are further fields."""
    return Variable(name, Kind.TEXT, None, meaning, form=form, **more)


def secret(name: str, meaning: str, **more: Any) -> Variable:
    """Declare a text that no message repeats; ``more`` are further fields."""
    return Variable(name, Kind.SECRET, None, meaning, **more)
