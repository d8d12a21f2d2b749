"""Token ids that the sampling hooks need, read from a tokenizer."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["PLACEHOLDER_TOKENS", "HookTokens"]

PLACEHOLDER_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Tokens that stand for visual input. A model that samples one has no image behind it, and the
batch that trains on it stops with a count mismatch, so sampling them is ruled out."""


class HookTokens(NamedTuple):
    """Ids in one tokenizer's vocabulary."""

    forbidden: list[int]
    """Ids that are never sampled."""
    turn_start: int | None
    """Id of ``<|im_start|>``."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> HookTokens:
        """Look the tokens up; those that the tokenizer lacks are left out."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        return cls(
            forbidden=sorted(vocabulary[t] for t in PLACEHOLDER_TOKENS if t in vocabulary),
            turn_start=vocabulary.get("<|im_start|>"),
        )
