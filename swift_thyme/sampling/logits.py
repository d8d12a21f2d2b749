"""The tensor work of the sampling hooks, shared by the engines.

Work is batched, and done only where a row needs it; which rows those are is remembered on the
device for as long as it does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch  # noqa: TID253 - an engine adapter

__all__ = ["LogitsEditor", "RowEdits"]

_NEVER = float("-inf")


class RowEdits(NamedTuple):
    """What happens to the rows of one batch; no row is in two of the lists."""

    greedy: list[int]
    """Rows of which only the arg-max is left."""
    scaled: list[tuple[int, float]]
    """(row, factor): rows whose logits are multiplied."""
    ended: list[tuple[int, int]]
    """(row, token id): rows of which only this token is left."""


class LogitsEditor:
    """Edits logits of shape (batch, vocabulary) in place.

    Args:
        forbidden: Token ids that are never sampled.
        device: Where the logits are.
        pin_memory: Whether host memory may be pinned for the copies.
    """

    def __init__(
        self, forbidden: Iterable[int], device: torch.device, *, pin_memory: bool = False
    ) -> None:
        self._device = device
        self._pin_memory = pin_memory
        self._forbidden = self._ids(sorted(forbidden))
        self._greedy: list[int] = []
        self._greedy_rows = self._ids([])

    def forbid(self, logits: torch.Tensor) -> None:
        """Rule the forbidden tokens out in every row."""
        if self._forbidden.numel():
            logits.index_fill_(1, self._forbidden, _NEVER)

    def edit(self, logits: torch.Tensor, edits: RowEdits) -> None:
        """Apply the edits."""
        if edits.greedy:
            if edits.greedy != self._greedy:
                self._greedy, self._greedy_rows = edits.greedy, self._ids(edits.greedy)
            rows = self._greedy_rows
            best = logits.index_select(0, rows).max(dim=1)
            logits.index_fill_(0, rows, _NEVER)
            logits.index_put_((rows, best.indices), best.values)
        if edits.scaled:
            rows = self._ids([row for row, _ in edits.scaled])
            factors = self._copy(torch.tensor([f for _, f in edits.scaled], dtype=logits.dtype))
            logits.index_copy_(0, rows, logits.index_select(0, rows) * factors.unsqueeze(1))
        if edits.ended:
            rows = self._ids([row for row, _ in edits.ended])
            logits.index_fill_(0, rows, _NEVER)
            tokens = self._ids([token_id for _, token_id in edits.ended])
            logits.index_put_((rows, tokens), logits.new_zeros(()))

    def _ids(self, values: Sequence[int]) -> torch.Tensor:
        return self._copy(torch.tensor(list(values), dtype=torch.long))

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return tensor
        if self._pin_memory:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
