"""Makes ms-swift's templates generate the turns of ``boundary_scripts`` with transformers."""

import functools
from typing import Any

import torch
from swift.template import Template
from transformers import LogitsProcessor, LogitsProcessorList

from tests.sampling.boundary_scripts import turn_ids

__all__ = ["saying"]


class Say(LogitsProcessor):
    """Gives the next token of each row's script the highest score."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._start = 0
        self._scripts: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._scripts:
            self._start = input_ids.shape[1]
            texts = self._tokenizer.batch_decode(input_ids)
            self._scripts = [turn_ids(self._tokenizer, text) for text in texts]
        at = input_ids.shape[1] - self._start
        for row, script in enumerate(self._scripts):
            scores[row, script[min(at, len(script) - 1)]] = 1e4
        return scores


def saying() -> Any:
    """Return what ``Template.prepare_generate_kwargs`` has to be, from what it is now."""
    prepare = Template.prepare_generate_kwargs

    @functools.wraps(prepare)
    def prepare_and_say(
        self: Any, generate_kwargs: dict[str, Any], *, model: Any = None
    ) -> dict[str, Any]:
        kwargs: dict[str, Any] = prepare(self, generate_kwargs, model=model)
        processors = [Say(self.tokenizer), *(kwargs.get("logits_processor") or [])]
        kwargs["logits_processor"] = LogitsProcessorList(processors)
        return kwargs

    return prepare_and_say
