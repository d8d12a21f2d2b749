"""Token ids and texts that the sampling hooks need, read from a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from swift_thyme.sampling.code_span import TokenTexts, assistant_turn

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
    """What one tokenizer says."""

    forbidden: frozenset[int]
    """Ids that are never sampled."""
    turn_start: int | None
    """Id of ``<|im_start|>``."""
    texts: TokenTexts
    """Texts of single ids."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> HookTokens:
        """Look the tokens up; those that the tokenizer lacks are left out."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        return cls(
            forbidden=frozenset(vocabulary[t] for t in PLACEHOLDER_TOKENS if t in vocabulary),
            turn_start=vocabulary.get("<|im_start|>"),
            texts=TokenTexts(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))),
        )

    def turn_ids(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return the ids of the assistant's turn so far, which a continued prompt ends with."""
        return assistant_turn(prompt_ids, self.turn_start)
