"""Where ms-swift 4.6 writes a picture in another way for vLLM than for training.

Log-probabilities of the two could not agree: one has seen a token that the other has not.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["install_template_repairs"]


def install_template_repairs() -> None:
    r"""Have InternVL's template end a picture with ``\n`` for vLLM, as in training (idempotent)."""
    from swift.template.templates.internvl import InternvlhfTemplate

    base = InternvlhfTemplate.replace_tag
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def replace_tag(self: Any, media_type: str, index: int, inputs: Any) -> Any:
        contexts = base(self, media_type, index, inputs)
        missing = media_type == "image" and self.mode == "vllm" and contexts[-1][-1] != "\n"
        return [*contexts, "\n"] if missing else contexts

    replace_tag.thyme_installed = True  # type: ignore[attr-defined]
    InternvlhfTemplate.replace_tag = replace_tag
