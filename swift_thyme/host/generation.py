"""One batch of turns through an ms-swift template and a transformers model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import (  # noqa: TID253 - an engine adapter
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
)

__all__ = ["encode_turn", "generate"]


def encode_turn(
    template: Any, messages: list[dict[str, Any]], turn_ids: list[int], images: list[Any]
) -> dict[str, Any]:
    """Encode a prompt and the assistant's turn so far for :func:`generate`.

    Args:
        template: A template with a ready processor.
        messages: The prompt's messages.
        turn_ids: Ids of the turn so far, ONE placeholder per image.
        images: Images of the prompt and of the turn, in order.
    """
    template = copy.copy(template)
    template.mode = "transformers"
    template.max_length = None
    if turn_ids:
        messages = [*messages, {"role": "assistant", "content": turn_ids}]
    encoded: dict[str, Any] = template.encode({"messages": messages, "images": images})
    return encoded


def generate(
    model: Any,
    template: Any,
    encoded: Sequence[dict[str, Any]],
    config: GenerationConfig,
    *,
    first: LogitsProcessor,
    last: LogitsProcessor,
    stop: StoppingCriteria,
) -> None:
    """Generate a batch of turns; the tokens go to ``stop``.

    Args:
        model: The model.
        template: Its template.
        encoded: What :func:`encode_turn` returned, a row each.
        config: How to generate.
        first: Edits the model's scores before the sampling hook does.
        last: Edits them after everything else.
        stop: Sees every token and says which rows are done.
    """
    from swift.utils import to_device

    template = copy.copy(template)
    template.mode = "transformers"
    if template.use_model:
        template.model = model
    batch = to_device(template.data_collator(list(encoded)), model.device)
    batch.pop("labels", None)
    _, batch = template.pre_forward_hook(model, None, batch)
    kwargs = template.prepare_generate_kwargs({"generation_config": config, **batch}, model=model)
    kwargs["logits_processor"] = LogitsProcessorList(
        [first, *(kwargs.get("logits_processor") or []), last]
    )
    kwargs["stopping_criteria"].append(stop)
    template.generate(model, **kwargs)
