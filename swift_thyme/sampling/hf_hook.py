"""The sampling hook inside the transformers engine."""

from __future__ import annotations

import functools
from typing import Any

import torch  # noqa: TID253 - an engine adapter
from transformers import (  # noqa: TID253 - an engine adapter
    LogitsProcessor,
    LogitsProcessorList,
)

from swift_thyme.sampling.code_span import CodeSpan, TokenText, assistant_turn
from swift_thyme.sampling.tokens import HookTokens

__all__ = ["ThymeLogitsProcessor", "install_sampling_hook"]


class ThymeLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # no type information
    """Rules placeholder tokens out and, with ``greedy_code``, leaves only the arg-max in code.

    One object serves one ``generate`` call, which keeps its rows in place.

    Args:
        tokenizer: The model's tokenizer.
        greedy_code: Whether tokens inside code are sampled greedily.
    """

    def __init__(self, tokenizer: Any, *, greedy_code: bool) -> None:
        tokens = HookTokens.from_tokenizer(tokenizer)
        self._greedy_code = greedy_code
        self._forbidden = torch.tensor(tokens.forbidden, dtype=torch.long)
        self._turn_start = tokens.turn_start
        self._text = TokenText(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)))
        self._spans: list[CodeSpan] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask scores of shape (batch, vocabulary); ``input_ids`` has shape (batch, length)."""
        if self._forbidden.device != scores.device:
            self._forbidden = self._forbidden.to(scores.device)
        scores = scores.index_fill(1, self._forbidden, float("-inf"))
        if not self._greedy_code:
            return scores
        rows = [i for i, inside in enumerate(self._inside(input_ids)) if inside]
        if rows:
            index = torch.tensor(rows, dtype=torch.long, device=scores.device)
            best = scores[index].argmax(dim=1)
            values = scores[index, best]
            scores[index] = float("-inf")
            scores[index, best] = values
        return scores

    def _inside(self, input_ids: torch.Tensor) -> list[bool]:
        if not self._spans:
            for prompt_ids in input_ids.tolist():
                span = CodeSpan()
                span.push_all(map(self._text, assistant_turn(prompt_ids, self._turn_start)))
                self._spans.append(span)
        else:
            for span, token_id in zip(self._spans, input_ids[:, -1].tolist(), strict=True):
                span.push(self._text(token_id))
        return [span.inside for span in self._spans]


def install_sampling_hook(*, greedy_code: bool) -> None:
    """Give every generation through an ms-swift template this hook (idempotent)."""
    from swift.template import Template

    base = getattr(Template.prepare_generate_kwargs, "thyme_base", Template.prepare_generate_kwargs)

    @functools.wraps(base)
    def prepare_generate_kwargs(
        self: Any, generate_kwargs: dict[str, Any], *, model: Any = None
    ) -> dict[str, Any]:
        kwargs: dict[str, Any] = base(self, generate_kwargs, model=model)
        hook = ThymeLogitsProcessor(self.tokenizer, greedy_code=greedy_code)
        kwargs["logits_processor"] = LogitsProcessorList(
            [hook, *(kwargs.get("logits_processor") or [])]
        )
        return kwargs

    prepare_generate_kwargs.thyme_base = base  # type: ignore[attr-defined]
    Template.prepare_generate_kwargs = prepare_generate_kwargs
