"""Says in the log of a job when its trajectories use the tool less than they did.

A reward that does not need the tool lets a policy forget it: slowly, and without a bad curve. This
module compares the last steps of training with the best earlier ones of the same number. It owns
the comparison and the words; counting is :mod:`swift_thyme.core.summary`'s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from swift_thyme.core.environment import Reader
from swift_thyme.core.statistics import difference
from swift_thyme.core.summary import TrajectorySummary

__all__ = ["ToolUse", "ToolUseWatch"]

LEAST_FALL = 0.05
"""A fall (share of trajectories) that is told; the next one is told after as much again."""
_ERRORS = 3.0
"""Standard errors that a fall has to have, by how much steps differ from each other. Where some
questions need no tool, a step's rate depends on what it asks. The best earlier steps are the best
of many, so two errors would speak too often."""


class ToolUse(NamedTuple):
    """What some trajectories did with the tool."""

    trajectories: int = 0
    used: int = 0
    """A block ran, and its output was read."""
    no_code: int = 0
    """No code was written."""

    def __add__(self, other: object) -> ToolUse:
        """Return the counts of both."""
        if not isinstance(other, ToolUse):
            return NotImplemented
        return ToolUse(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def rate(self) -> float:
        """Share that used the tool, in [0, 1]."""
        return self.used / self.trajectories

    @staticmethod
    def of(summaries: Sequence[TrajectorySummary]) -> ToolUse:
        """Count trajectories."""
        return ToolUse(
            len(summaries),
            sum(summary.tool_used for summary in summaries),
            sum(summary.blocks_written == 0 for summary in summaries),
        )


class ToolUseWatch:
    """Watches the steps of one training.

    Args:
        steps: Steps that are compared with as many earlier ones; 0 watches nothing. None reads
            ``THYME_TOOL_USE_STEPS``.
    """

    def __init__(self, steps: int | None = None) -> None:
        self._window = Reader().count("THYME_TOOL_USE_STEPS") if steps is None else steps
        self._steps: list[ToolUse] = []
        self._best: list[ToolUse] = []
        self._best_first = 0
        self._told = 1.0

    def settle(self, summaries: Sequence[TrajectorySummary]) -> str | None:
        """Take the trajectories of a step.

        Returns:
            A sentence for the log where tool use has fallen by more than chance explains.
        """
        if self._window == 0 or not summaries:
            return None
        self._steps.append(ToolUse.of(summaries))
        if len(self._steps) < 2 * self._window:
            return None
        # The earlier steps end where the last ones begin.
        first = len(self._steps) - 2 * self._window
        earlier = self._steps[first : first + self._window]
        if not self._best or _sum(earlier).rate > _sum(self._best).rate:
            self._best, self._best_first = earlier, first + 1
        return self._judge(self._steps[-self._window :])

    def _judge(self, steps: Sequence[ToolUse]) -> str | None:
        last, best = _sum(steps), _sum(self._best)
        fall = best.rate - last.rate
        _, high = difference(last.rate, last.trajectories, best.rate, best.trajectories)
        error = math.sqrt((_variance(steps) + _variance(self._best)) / self._window)
        if fall < LEAST_FALL or high >= 0 or fall < _ERRORS * error:
            return None
        if last.rate > self._told - LEAST_FALL:
            return None
        self._told = last.rate
        without = last.trajectories - last.used
        end = self._best_first + self._window - 1
        return (
            f"tool use fell to {last.rate:.1%} of the trajectories of the last {self._window} "
            f"steps; in steps {self._best_first} to {end} it was {best.rate:.1%}. Of those "
            f"without the tool {last.no_code / without:.0%} wrote no code, in the others it failed "
            "or nothing read its output. docs/training.md, 'Tool use that falls', says what helps"
        )


def _sum(steps: Sequence[ToolUse]) -> ToolUse:
    return sum(steps, ToolUse())


def _variance(steps: Sequence[ToolUse]) -> float:
    """Return how much the rates of steps vary; 0 for a single step."""
    return statistics.variance(step.rate for step in steps) if len(steps) > 1 else 0.0
