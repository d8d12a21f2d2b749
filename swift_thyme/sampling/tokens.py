"""Token ids and texts that the sampling hooks need, read from a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift_thyme.core.placeholders import (
    ASSISTANT_STARTS,
    PLACEHOLDER_TOKENS,
    is_placeholder,
    placeholder_ids,
)
from swift_thyme.sampling.code_span import TokenTexts, assistant_turn

__all__ = ["HookTokens"]


class HookTokens(NamedTuple):
    """What one tokenizer says."""

    forbidden: frozenset[int]
    """Ids that are never sampled."""
    turn_starts: frozenset[int]
    """Ids of tokens the last of which in a prompt begins the assistant's turn."""
    texts: TokenTexts
    """Texts of single ids."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, config: Mapping[str, Any] | None = None) -> HookTokens:
        """Look the tokens up; those that the tokenizer lacks are left out.

        Args:
            tokenizer: The model's.
            config: The model's configuration, which may name ids that no text gives away.
        """
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        forbidden = {vocabulary[t] for t in PLACEHOLDER_TOKENS if t in vocabulary}
        added: dict[str, int] = tokenizer.get_added_vocab()
        forbidden |= {token_id for text, token_id in added.items() if is_placeholder(text)}
        known = set(vocabulary.values()) if config else set()
        forbidden |= known & set(placeholder_ids(config or {}))
        return cls(
            forbidden=frozenset(forbidden),
            turn_starts=frozenset(vocabulary[t] for t in ASSISTANT_STARTS if t in vocabulary),
            texts=TokenTexts(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))),
        )

    def turn_ids(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return the ids of the assistant's turn so far, which a continued prompt ends with."""
        return assistant_turn(prompt_ids, self.turn_starts)
