"""Counts over all batches of an evaluation.

ms-swift logs the mean of the numbers that its batches give. That is right for shares, but the mean
of counts is no count, and the mean of deviations is no deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["RightAndWrong"]


class RightAndWrong:
    """How many samples of an evaluation each reward function calls right, and how many wrong."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    def add(self, names: Sequence[str], scores: Sequence[torch.Tensor]) -> None:
        """Count the samples of a batch.

        Args:
            names: The reward functions.
            scores: Tensors of shape (samples, reward functions), NaN where there is no score; of
                all processes.
        """
        for index, name in enumerate(names):
            right, wrong, scored = self._counts.get(name, (0, 0, 0))
            for column in (rows[:, index] for rows in scores):
                right += int((column == 1).sum())
                wrong += int((column == 0).sum())
                scored += int((~column.isnan()).sum())
            self._counts[name] = right, wrong, scored

    def metrics(self) -> dict[str, int]:
        """Return the counts of those functions whose scores were 0 or 1, all of them."""
        found: dict[str, int] = {}
        for name, (right, wrong, scored) in self._counts.items():
            if scored and right + wrong == scored:
                found |= {f"thyme/right/{name}": right, f"thyme/wrong/{name}": wrong}
        return found
