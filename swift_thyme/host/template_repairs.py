"""Where ms-swift 4.6 and what it runs on disagree about a picture, in families beyond Qwen's.

* InternVL: its template ends a picture with a line break in training, and not for vLLM. So the
  log-probabilities of the two could not agree.
* Gemma 4 and PaddleOCR-VL: transformers 5.19 returns the features of pictures one by one, where
  ms-swift's own forward pass expects them joined.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["install_template_repairs", "repair_loaded_models"]

_LISTED_FEATURES = (
    ("transformers.models.gemma4.modeling_gemma4", "Gemma4Model"),
    ("transformers.models.paddleocr_vl.modeling_paddleocr_vl", "PaddleOCRVLModel"),
)
"""Modules and classes whose features are a tuple."""


class _Features(tuple):  # type: ignore[type-arg]  # of tensors, and torch is not imported here
    """Features of each picture, for transformers; all of them, for ms-swift."""

    def to(self, *args: Any) -> Any:
        """Return the features joined, on a device and of a type, as ``torch.Tensor.to`` does."""
        import torch

        return torch.cat(self).to(*args)


def install_template_repairs() -> None:
    """Repair templates (idempotent)."""
    from swift.template.templates.internvl import InternvlhfTemplate

    _wrap(InternvlhfTemplate, "replace_tag", _with_line_break)


def repair_loaded_models() -> None:
    """Repair the classes of models that this process has loaded (idempotent)."""
    for module, name in _LISTED_FEATURES:
        owner = getattr(sys.modules.get(module), name, None)
        if owner is not None:
            _wrap(owner, "get_image_features", _with_features_to_join)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    base = getattr(owner, name)
    if not getattr(base, "thyme_installed", False):
        wrapped: Any = functools.wraps(base)(wrapper(base))
        wrapped.thyme_installed = True
        setattr(owner, name, wrapped)


def _with_line_break(base: Callable[..., Any]) -> Callable[..., Any]:
    def replace_tag(self: Any, media_type: str, index: int, inputs: Any) -> Any:
        contexts = base(self, media_type, index, inputs)
        missing = media_type == "image" and self.mode == "vllm" and contexts[-1][-1] != "\n"
        return [*contexts, "\n"] if missing else contexts

    return replace_tag


def _with_features_to_join(base: Callable[..., Any]) -> Callable[..., Any]:
    def get_image_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = base(self, *args, **kwargs)
        if isinstance(getattr(output, "pooler_output", None), tuple):
            output.pooler_output = _Features(output.pooler_output)
        return output

    return get_image_features
