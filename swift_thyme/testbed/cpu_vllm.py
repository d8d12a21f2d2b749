"""Makes vLLM's CPU build usable as the rollout engine of a training run.

The CPU build repacks linear weights for oneDNN and frees the originals, so the first weight update
from the trainer finds parameters of size zero. For a test on a CPU the plain kernels will do.
"""

from __future__ import annotations

import importlib.util

__all__ = ["keep_plain_weights"]


def keep_plain_weights() -> None:
    """Keep vLLM's CPU build from repacking weights; does nothing without vLLM or on a GPU."""
    if importlib.util.find_spec("vllm") is None:
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import vllm._custom_ops as ops

    ops._supports_onednn = False
