"""Weights of experts on their way to vLLM, in the layout of a checkpoint.

Transformers 5 keeps the experts of a layer in two tensors. vLLM reads those of GLM-4.5V and
GLM-4.6V as checkpoints hold them: one tensor per expert. ms-swift 4.6 sends transformers' own
tensors, except for the types of models in a list of its own, whose weights it turns back into a
checkpoint's. So these types are added to that list. For Qwen3-VL-MoE see
:mod:`swift_thyme.sampling.vllm_weights`.
"""

from __future__ import annotations

__all__ = ["send_experts_as_in_checkpoints"]

_LIST = "_VLLM_CHECKPOINT_STYLE_PACKED_MOE_MODEL_TYPES"
_TYPES = frozenset({"glm4v_moe"})
"""Whose experts vLLM reads one by one."""


def send_experts_as_in_checkpoints() -> None:
    """Have ms-swift send weights of experts as their checkpoints hold them (idempotent)."""
    from swift.rlhf_trainers import utils

    setattr(utils, _LIST, getattr(utils, _LIST) | _TYPES)
