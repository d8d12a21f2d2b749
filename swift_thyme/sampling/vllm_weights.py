"""vLLM 0.23 and the experts of Qwen3-VL-MoE, as transformers 5 keeps and saves them.

A published checkpoint holds the two tensors of a layer's experts transposed, and vLLM turns them
round when it loads them. Transformers 5 keeps them as they are used, saves them so, and ms-swift
sends them so at each step. So tensors of that form are turned here first.

The sampling hook asks for it: it is made in each process of vLLM, before weights are loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["accept_experts_of_transformers"]

_ARCHITECTURE = "Qwen3VLMoeForConditionalGeneration"


def accept_experts_of_transformers(architectures: Iterable[str]) -> None:
    """Let vLLM's class of a model load experts in both forms (idempotent).

    Args:
        architectures: Of the model that the engine is for.
    """
    if _ARCHITECTURE not in architectures:
        return
    from vllm.model_executor.models import qwen3_vl_moe

    owner = qwen3_vl_moe.Qwen3MoeLLMModel
    base = owner.load_weights
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def load_weights(self: Any, weights: Iterable[tuple[str, Any]]) -> Any:
        width = self.config.hidden_size
        return base(self, as_published(weights, width, self.config.moe_intermediate_size))

    load_weights.thyme_installed = True  # type: ignore[attr-defined]
    owner.load_weights = load_weights


def as_published(
    weights: Iterable[tuple[str, Any]], hidden: int, inner: int
) -> Iterator[tuple[str, Any]]:
    """Yield weights by name, experts in the form of a published checkpoint.

    Args:
        weights: Names and tensors; those of experts are (experts, 2 * inner, hidden) and
            (experts, hidden, inner), or with the last two dimensions exchanged.
        hidden: Width of the model.
        inner: Width of an expert. With ``hidden`` equal to ``2 * inner`` or to ``inner`` the forms
            look alike, and tensors are left as they are.
    """
    kept = {"gate_up_proj": (2 * inner, hidden), "down_proj": (hidden, inner)}
    for name, tensor in weights:
        form = kept.get(name.rpartition("experts.")[2]) if "experts." in name else None
        if form is not None and tuple(tensor.shape[1:]) == form and form[0] != form[1]:
            yield name, tensor.transpose(1, 2)
        else:
            yield name, tensor
