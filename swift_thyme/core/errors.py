"""Exceptions of this package.

The rule behind them: what the *model* does wrong (bad code, a wrong answer, no answer) is data and
is returned as a value; what *we* fail at (a sandbox that cannot start, a judge that does not
answer) is an exception from this module, so that it can never be mistaken for text or a score.
"""

__all__ = [
    "ThymeError",
    "SettingsError",
    "DataError",
    "HostError",
    "SandboxUnavailableError",
    "SandboxDeadError",
    "JudgeError",
    "EngineError",
]


class ThymeError(Exception):
    """Base class of every exception that this package raises on purpose."""


class SettingsError(ThymeError, ValueError):
    """A flag or environment variable has a value that cannot be used; the message names it."""


class DataError(ThymeError, ValueError):
    """A data row or file cannot be used; the message names the row and the field."""


class HostError(ThymeError, RuntimeError):
    """The installed ms-swift lacks a name that is used of it; the message names it in one line."""


class SandboxUnavailableError(ThymeError, RuntimeError):
    """The sandbox itself failed (not the code that it ran); never show this to the model."""


class SandboxDeadError(ThymeError, RuntimeError):
    """No code can be run any more; ends the job, because every reward would be missing."""


class JudgeError(ThymeError, RuntimeError):
    """No judge endpoint gave a verdict; the sample is unscored, which is not a score of zero."""


class EngineError(ThymeError, RuntimeError):
    """An engine or an endpoint failed while it sampled; says nothing about the model's answer."""
