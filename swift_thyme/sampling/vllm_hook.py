"""The sampling hook inside vLLM (logits-processor interface of vLLM 0.23).

vLLM loads the class by name (``swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor``) in every
process that samples, so no plugin file has to be imported there. Settings come with the engine
arguments, in ``additional_config["thyme"]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - an engine adapter
from vllm.tokenizers import cached_tokenizer_from_config  # noqa: TID253 - an engine adapter
from vllm.v1.sample.logits_processor import (  # noqa: TID253 - an engine adapter
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from swift_thyme.sampling.code_span import CodeSpan, TokenText, assistant_turn
from swift_thyme.sampling.tokens import HookTokens

if TYPE_CHECKING:
    from vllm.config import VllmConfig

__all__ = ["ThymeLogitsProcessor"]


class _Row:
    """The code span of one running request."""

    __slots__ = ("output_ids", "seen", "span")

    def __init__(self, span: CodeSpan, output_ids: list[int]) -> None:
        self.span = span
        self.output_ids = output_ids
        self.seen = 0


class ThymeLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM has no type information
    """Rules placeholder tokens out and, with ``greedy_code``, leaves only the arg-max in code."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        settings: dict[str, Any] = (vllm_config.additional_config or {}).get("thyme", {})
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        tokens = HookTokens.from_tokenizer(tokenizer)
        self._greedy_code = bool(settings.get("greedy_code", False))
        self._forbidden = torch.tensor(tokens.forbidden, dtype=torch.long, device=device)
        self._turn_start = tokens.turn_start
        self._text = TokenText(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)))
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Return False: the placeholder guard can change the arg-max."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, go and move between rows of the batch."""
        if batch_update is None or not self._greedy_code:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, _, prompt_ids, output_ids in batch_update.added:
            span = CodeSpan()
            span.push_all(map(self._text, assistant_turn(prompt_ids or [], self._turn_start)))
            self._rows[index] = _Row(span, output_ids)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if direction is MoveDirectionality.SWAP and replaced is not None:
                self._rows[source] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask logits of shape (batch, vocabulary) in place."""
        if self._forbidden.numel():
            logits.index_fill_(1, self._forbidden, float("-inf"))
        if self._greedy_code:
            inside = self._rows_inside_code()
            if inside:
                rows = torch.tensor(inside, dtype=torch.long, device=logits.device)
                best = logits[rows].argmax(dim=1)
                values = logits[rows, best]
                logits[rows] = float("-inf")
                logits[rows, best] = values
        return logits

    def _rows_inside_code(self) -> list[int]:
        # Output ids are complete here and not yet in `update_state`: with asynchronous scheduling
        # the last one is filled in between.
        inside = []
        for index, row in self._rows.items():
            ids = row.output_ids
            while row.seen < len(ids) and ids[row.seen] >= 0:
                row.span.push(self._text(ids[row.seen]))
                row.seen += 1
            if row.span.inside:
                inside.append(index)
        return inside
