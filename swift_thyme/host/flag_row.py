"""A row of the flag table: which flag in which job, what becomes of it with ``--O3 true``, and why.

This module owns the form of a row and the question whether a row is met by an argument object of
ms-swift. The rows themselves are in :mod:`swift_thyme.host.flag_table`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from swift_thyme.host.job_plan import as_mapping

__all__ = ["Condition", "FlagRow", "Job", "Outcome", "job_of"]


class Job(str, Enum):
    """A command of ms-swift; the value is what the user types."""

    GRPO = "swift rlhf --rlhf_type grpo"
    SFT = "swift sft"
    ROLLOUT = "swift rollout"
    MEGATRON_SFT = "megatron sft"
    OTHER_RLHF = "swift rlhf --rlhf_type ..."
    PRETRAIN = "swift pt"
    INFER = "swift infer"
    DEPLOY = "swift deploy"
    APP = "swift app"
    EVAL = "swift eval"
    EXPORT = "swift export"
    SAMPLE = "swift sample"
    MEGATRON_RLHF = "megatron rlhf"
    MEGATRON_PRETRAIN = "megatron pt"
    MEGATRON_EXPORT = "megatron export"
    OTHER = "this command"


_JOBS = {
    "SftArguments": Job.SFT,
    "RolloutArguments": Job.ROLLOUT,
    "MegatronSftArguments": Job.MEGATRON_SFT,
    "PretrainArguments": Job.PRETRAIN,
    "InferArguments": Job.INFER,
    "DeployArguments": Job.DEPLOY,
    "AppArguments": Job.APP,
    "EvalArguments": Job.EVAL,
    "ExportArguments": Job.EXPORT,
    "SamplingArguments": Job.SAMPLE,
    "MegatronRLHFArguments": Job.MEGATRON_RLHF,
    "MegatronPretrainArguments": Job.MEGATRON_PRETRAIN,
    "MegatronExportArguments": Job.MEGATRON_EXPORT,
}


def job_of(arguments: Any) -> Job:
    """Tell by ms-swift's argument object which command it belongs to.

    Args:
        arguments: The object, or one of a class that is derived from ms-swift's.
    """
    for kind in type(arguments).__mro__:
        if kind.__name__ == "RLHFArguments":
            grpo = arguments.rlhf_type == "grpo"
            return Job.GRPO if grpo else Job.OTHER_RLHF
        if kind.__name__ in _JOBS:
            return _JOBS[kind.__name__]
    return Job.OTHER


class Outcome(str, Enum):
    """What becomes of a flag with ``--O3 true``."""

    WORKS = "works"
    REFUSED = "refused"
    """This package stops the job when it starts, with one line."""
    HOST = "ms-swift's own error"
    """ms-swift itself stops the job, with or without ``--O3 true``."""


@dataclass(frozen=True, slots=True)
class Condition:
    """When a row is met, as data: a field of the argument object and the values that count."""

    field: str
    values: tuple[Any, ...] = ()
    """Values that meet it; empty: every value that is not false, empty or 0."""
    above: float | None = None
    """Not None: numbers above it meet it."""
    key: str = ""
    """Not empty: the field is a dict, or its text as JSON, and this key of it is looked at."""
    within: bool = False
    """The field is a text in which one of the values stands between plus signs."""
    unless: str = ""
    """A field; where the user has set it, the condition is not met."""
    our_scheduler: bool = False
    """Counts only where the scheduler is ours, and not one that the user chose."""

    def is_met(self, arguments: Any, our_scheduler: str) -> bool:
        """Tell whether an argument object meets it.

        Args:
            arguments: ms-swift's argument object. A field that it lacks meets nothing.
            our_scheduler: The name of our scheduler in ms-swift's table.
        """
        if self.our_scheduler:
            chosen = getattr(arguments, "multi_turn_scheduler", None)
            if chosen not in (None, our_scheduler):
                return False
        if self.unless and getattr(arguments, self.unless, None):
            return False
        value = getattr(arguments, self.field, None)
        if self.key:
            value = as_mapping(value).get(self.key)
        if self.above is not None:
            return value is not None and value > self.above
        if self.within:
            return not set(self.values).isdisjoint(str(value or "").split("+"))
        return value in self.values if self.values else bool(value)


@dataclass(frozen=True, slots=True)
class FlagRow:
    """One row of the table."""

    flags: str
    """The flags as the user types them, with the values that the row is about."""
    jobs: tuple[Job, ...]
    outcome: Outcome
    why: str
    """A clause: why it cannot work, or how it works here."""
    test: str
    """``FILE::FUNCTION`` of the test that shows it, from the root of the repository."""
    fields: tuple[str, ...] = ()
    """Fields of ms-swift's argument classes that the row covers."""
    example: tuple[str, ...] = ()
    """Command line of the test; of a row that works, one that ms-swift's parser accepts."""
    when: tuple[Condition, ...] = ()
    """Of a refused row: any of them refuses. Empty: the whole job is refused."""
    instead: str = ""
    """Of a refused row: what to use."""
    why_test: str = ""
    """Of a refused row: ``FILE::FUNCTION`` of a test that shows why, on ms-swift's own code."""
    error: str = ""
    """Of a row that ms-swift refuses: a piece of its message."""

    @property
    def line(self) -> str:
        """The line that a job is refused with."""
        subject = f"{self.flags} cannot be used with --O3 true"
        if not self.when:
            subject = f"--O3 true does nothing for {self.flags}"
        return f"{subject}: {self.why}; {self.instead}"
