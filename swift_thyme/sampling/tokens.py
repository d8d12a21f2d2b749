"""Token ids and texts that the sampling hooks need, read from a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from swift_thyme.core.placeholders import PLACEHOLDER_TOKENS, TURN_START
from swift_thyme.sampling.code_span import TokenTexts, assistant_turn

__all__ = ["HookTokens"]


class HookTokens(NamedTuple):
    """What one tokenizer says."""

    forbidden: frozenset[int]
    """Ids that are never sampled."""
    turn_start: int | None
    """Id of the token that begins a message."""
    texts: TokenTexts
    """Texts of single ids."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> HookTokens:
        """Look the tokens up; those that the tokenizer lacks are left out."""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        return cls(
            forbidden=frozenset(vocabulary[t] for t in PLACEHOLDER_TOKENS if t in vocabulary),
            turn_start=vocabulary.get(TURN_START),
            texts=TokenTexts(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))),
        )

    def turn_ids(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return the ids of the assistant's turn so far, which a continued prompt ends with."""
        return assistant_turn(prompt_ids, self.turn_start)
