"""The one reader of environment variables: by the table of :mod:`swift_thyme.core.variable_table`.

Rules for all of them: blanks around a value do not count, and a blank value counts as not set. A
value that cannot be used is a :class:`~swift_thyme.core.errors.SettingsError` that names the
variable, the value, and the values that can be used. Each component reads once, when it starts, and
passes on what it read.
"""

from __future__ import annotations

import difflib
import logging
import math
import multiprocessing
import os
import re
from collections.abc import Mapping
from typing import cast

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.core.variables import Kind, Value, Variable

__all__ = [
    "Reader",
    "check",
    "parse",
    "parse_switch",
    "passed_on",
    "speaks_for_the_job",
    "tidy_options",
    "unknown_variables",
    "unusable",
    "warn_about_unknown",
]

logger = logging.getLogger(__name__)

_TRUE = frozenset({"true", "1", "yes", "on", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "off", "n", "f"})
# Narrower than int() and float(): no digits of other scripts, no underscores, no "infinity".
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_TOKEN = re.compile(r"[!-~]+")

_PREFIX = "THYME_"
_SHOWN_CHARS = 100
_SHOWN_UNKNOWN = 5


class Reader:
    """Typed access to an environment.

    The name that a method gets must be in the table, with the kind of the method. Where a variable
    is not set, its default is returned.

    Args:
        environ: Variables to read; None reads those of this process.

    Raises:
        SettingsError: (each method) The value cannot be used.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ

    def raw(self, name: str) -> str | None:
        """Return the text as it is set, for a variable in which a blank means something."""
        return self._environ.get(VARIABLES[name].name)

    def given(self, name: str) -> Value | None:
        """Return the value, or None where the variable is not set."""
        variable = VARIABLES[name]
        text = self._environ.get(name, "").strip()
        return parse(variable, text) if text else None

    def text(self, name: str) -> str | None:
        """Return a text, a word or a secret; None where it is neither set nor has a default."""
        return cast("str | None", self._read(name, Kind.TEXT, Kind.SECRET, Kind.CHOICE))

    def switch(self, name: str) -> bool:
        """Return a switch."""
        return cast(bool, self._read(name, Kind.SWITCH))

    def count(self, name: str) -> int:
        """Return a whole number."""
        return cast(int, self._read(name, Kind.COUNT))

    def number(self, name: str) -> float:
        """Return a number."""
        return cast(float, self._read(name, Kind.NUMBER))

    def _read(self, name: str, *kinds: Kind) -> Value | None:
        variable = VARIABLES[name]
        assert variable.kind in kinds, name
        value = self.given(name)
        return variable.default if value is None else value


def parse(variable: Variable, text: str) -> Value:
    """Return the value that a text stands for.

    Args:
        variable: Whose text it is.
        text: Not blank.

    Raises:
        SettingsError: The text stands for no value that can be used.
    """
    text = text.strip()
    value = _parsed(variable.kind, text)
    if value is None:
        raise unusable(variable.name, text)
    check(variable, value, shown=text)
    return value


def check(variable: Variable, value: Value, *, shown: str | None = None) -> None:
    """Make sure that a value lies in the range of its variable, wherever the value comes from.

    Args:
        variable: Whose value it is.
        value: Of the type that the variable's kind has.
        shown: The value as it was written; None writes the value itself.

    Raises:
        SettingsError: It does not.
    """
    shown = str(value) if shown is None else shown
    if isinstance(value, int | float):
        low = -math.inf if variable.low is None else variable.low
        high = math.inf if variable.high is None else variable.high
        # The form of the condition refuses NaN too.
        if not (low <= value <= high and abs(value) < math.inf):
            raise unusable(variable.name, shown)
    elif variable.choices:
        used = (value,) if isinstance(value, str) else value
        if not set(used) <= set(variable.choices):
            raise unusable(variable.name, shown)


def parse_switch(text: str) -> bool | None:
    """Return what a text says, in any case; None where it is neither true nor false."""
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def unusable(name: str, text: str, why: str = "") -> SettingsError:
    """Return the error about a value: its variable, the value, and the values that can be used.

    Args:
        name: A variable of the table.
        text: The value; no secret is shown.
        why: What is wrong with it, where that is not plain.
    """
    variable = VARIABLES[name]
    shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    said = f"{name}=(not shown)" if variable.kind is Kind.SECRET else f"{name}={shown!r}"
    reason = f"{why}; " if why else ""
    return SettingsError(f"{said}: {reason}expected {variable.expected}")


def _parsed(kind: Kind, text: str) -> Value | None:
    if kind is Kind.SWITCH:
        return parse_switch(text)
    if kind is Kind.COUNT:
        return int(text) if _WHOLE.fullmatch(text) else None
    if kind is Kind.NUMBER:
        return float(text) if _NUMBER.fullmatch(text) else None
    if kind is Kind.CHOICE:
        return text.lower()
    if kind is Kind.NAMES:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is Kind.SECRET:
        return text if _TOKEN.fullmatch(text) else None
    return text


def passed_on(*names: str) -> dict[str, str]:
    """Return those of the variables that are set, for the environment of a child process."""
    return {name: os.environ[name] for name in names if name in os.environ}


def tidy_options() -> None:
    """Make the variables that stand for command-line options follow the rules of this module.

    typer reads them itself, and takes blanks for a value. Call this before it does.
    """
    for variable in VARIABLES.values():
        text = os.environ.pop(variable.name, "") if variable.option else ""
        if text.strip():
            os.environ[variable.name] = text.strip()


def unknown_variables(environ: Mapping[str, str] | None = None) -> str | None:
    """Return a line about set variables that look like ours but are none; None without any.

    Args:
        environ: Variables to look at; None looks at those of this process.
    """
    names = os.environ if environ is None else environ
    unknown = sorted(
        name for name in names if name.upper().startswith(_PREFIX) and name not in VARIABLES
    )
    if not unknown:
        return None
    known = [name for name in VARIABLES if name.startswith(_PREFIX)]
    found = []
    for name in unknown[:_SHOWN_UNKNOWN]:
        near = difflib.get_close_matches(name.upper(), known, n=1)
        found.append(f"{name[:_SHOWN_CHARS]!r}" + (f" (did you mean {near[0]}?)" if near else ""))
    rest = len(unknown) - len(found)
    more = f" and {rest} more" if rest else ""
    return (
        f"set, but not known to swift_thyme: {', '.join(found)}{more}; "
        "docs/environment.md has all variables"
    )


def speaks_for_the_job(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether this process is the first one of its job, and none that another one started.

    Args:
        environ: Variables to look at; None looks at those of this process.
    """
    return Reader(environ).count("RANK") <= 0 and multiprocessing.parent_process() is None


def warn_about_unknown(environ: Mapping[str, str] | None = None) -> None:
    """Log one warning where variables look like ours but are none; call it when a job starts.

    The first process of a job speaks for all of them.

    Args:
        environ: Variables to look at; None looks at those of this process.
    """
    message = unknown_variables(environ) if speaks_for_the_job(environ) else None
    if message is not None:
        logger.warning("%s", message)
