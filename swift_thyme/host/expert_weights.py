"""Weights of experts on their way to vLLM, in the layout of a checkpoint.

Transformers 5 keeps the experts of a layer in two tensors. vLLM reads weights as checkpoints hold
them: one tensor per expert (GLM-4.5V, GLM-4.6V), or two that are transposed (Qwen3-VL-MoE).
ms-swift 4.6 sends transformers' own tensors, except for the types of models in a list of its own,
whose weights it turns back into a checkpoint's. So these types are added to that list.
"""

from __future__ import annotations

__all__ = ["send_experts_as_in_checkpoints"]

_LIST = "_VLLM_CHECKPOINT_STYLE_PACKED_MOE_MODEL_TYPES"
_TYPES = frozenset({"qwen3_vl_moe", "glm4v_moe"})
"""Whose experts vLLM does not read as transformers keeps them."""


def send_experts_as_in_checkpoints() -> None:
    """Have ms-swift send weights of experts as their checkpoints hold them (idempotent)."""
    from swift.rlhf_trainers import utils

    setattr(utils, _LIST, getattr(utils, _LIST) | _TYPES)
