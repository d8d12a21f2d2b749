"""Sizes of a model, counted from its configuration: parameters, cache, tokens of a picture.

Only shapes are read, never weights, so that a model can be planned before it is downloaded. Norms,
biases and the projector of other families than Qwen's are left out: below one percent together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ModelSizes", "sizes_of"]

_CACHE_BYTES = 2
"""Of a number in the cache."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What decides about memory."""

    name: str
    text: int
    """Parameters of the language model, embeddings included."""
    vision: int
    """Parameters of the vision tower and of what joins it to the text."""
    layers: int
    hidden: int
    vocabulary: int
    wide: int
    """Numbers of a token inside a layer's MLP, of all experts that it goes to."""
    cache_bytes_per_token: int
    heads: int
    """Key-value heads: vLLM can spread a model over as many GPUs."""
    factor_px: int
    """Side of the square that one token of a picture stands for, in pixels."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.text + self.vision

    def picture_tokens(self, max_pixels: int) -> int:
        """Return how many tokens the largest picture takes.

        Args:
            max_pixels: Of a picture after resizing.
        """
        return max(max_pixels // self.factor_px**2, 1)


def sizes_of(name: str, config: Mapping[str, Any]) -> ModelSizes | None:
    """Count a model; None where the configuration does not say enough.

    Args:
        name: What the model is called in messages.
        config: ``config.json``.
    """
    text = {**config, **(config.get("text_config") or {})}
    layers, hidden = _first(text, "num_hidden_layers"), _first(text, "hidden_size")
    heads, vocabulary = _first(text, "num_attention_heads"), _first(text, "vocab_size")
    if not (layers and hidden and heads and vocabulary):
        return None
    head = _first(text, "head_dim") or hidden // heads
    groups = _first(text, "num_key_value_heads") or heads
    kinds = text.get("layer_types") or []
    linear = kinds.count("linear_attention") if isinstance(kinds, list) else 0
    attention = (layers - linear) * 2 * hidden * head * (heads + groups)
    attention += linear * _linear_attention(text, hidden)
    tables = 1 if config.get("tie_word_embeddings", text.get("tie_word_embeddings")) else 2
    mlp, wide = _mlp(text, layers, hidden)
    vision = config.get("vision_config") or {}
    return ModelSizes(
        name=name,
        text=attention + mlp + tables * vocabulary * hidden,
        vision=_vision(vision, hidden),
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        wide=wide,
        cache_bytes_per_token=2 * _CACHE_BYTES * (layers - linear) * groups * head,
        heads=groups,
        factor_px=_side(vision.get("patch_size"), 14) * (_first(vision, "spatial_merge_size") or 2),
    )


def _linear_attention(text: Mapping[str, Any], hidden: int) -> int:
    """Return the parameters of a layer with linear attention (Qwen3.5)."""
    keys = _first(text, "linear_num_key_heads") * _first(text, "linear_key_head_dim")
    values = _first(text, "linear_num_value_heads") * _first(text, "linear_value_head_dim")
    return hidden * (2 * keys + 3 * values)


def _mlp(text: Mapping[str, Any], layers: int, hidden: int) -> tuple[int, int]:
    """Return parameters of all MLPs, and the numbers of a token inside one."""
    dense = _first(text, "intermediate_size")
    experts = _first(text, "num_experts", "n_routed_experts", "num_local_experts")
    if not experts:
        return layers * 3 * hidden * dense, dense
    width = _first(text, "moe_intermediate_size") or dense
    shared = _first(text, "shared_expert_intermediate_size")
    shared = shared or _first(text, "n_shared_experts") * width
    plain = min(_first(text, "first_k_dense_replace"), layers)
    sparse = 3 * hidden * (experts * width + shared) + hidden * experts
    chosen = _first(text, "num_experts_per_tok") or 1
    total = plain * 3 * hidden * dense + (layers - plain) * sparse
    return total, chosen * width + shared


def _vision(vision: Mapping[str, Any], out: int) -> int:
    """Return the parameters of a vision tower; 0 where there is none."""
    depth = _first(vision, "depth", "num_hidden_layers")
    width = _first(vision, "embed_dim") or _first(vision, "hidden_size")
    if not depth or not width:
        return 0
    ratio = vision.get("mlp_ratio") or 4
    inner = _first(vision, "intermediate_size") or int(width * ratio)
    # Gated MLPs have three matrices; Qwen2.5-VL and GLM are gated, and say so by SiLU.
    matrices = 3 if vision.get("hidden_act") == "silu" else 2
    merged = width * (_first(vision, "spatial_merge_size") or 1) ** 2
    mergers = 1 + len(vision.get("deepstack_visual_indexes") or ())
    joined = mergers * merged * (merged + out)
    patch = 3 * _side(vision.get("patch_size"), 14) ** 2 * width
    patch *= _first(vision, "temporal_patch_size") or 1
    return depth * (4 * width**2 + matrices * width * inner) + joined + patch


def _side(value: Any, default: int) -> int:
    """Return the side of a square that is given as one number or two."""
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) and first > 0 else default


def _first(values: Mapping[str, Any], *names: str) -> int:
    """Return the first whole number under one of some names; 0 where there is none."""
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)
