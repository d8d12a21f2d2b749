"""Between a trajectory and the model's tokens: an interface and the record that crosses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from swift_thyme.core.observation import Observation

__all__ = ["EncodedObservation", "TokenCodec"]


class EncodedObservation(NamedTuple):
    """An observation as token ids."""

    token_ids: list[int]
    """Ids with ONE placeholder per image."""
    expanded_length: int
    """Length once every placeholder is expanded to its visual tokens."""


class TokenCodec(Protocol):
    """What a trajectory needs to know about the model's tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included."""

    def is_end_of_text(self, token_id: int) -> bool:
        """Tell whether the id ends a text (not: a stop string)."""

    def prompt_length(self) -> int:
        """Return the length of this trajectory's prompt in tokens, images expanded."""

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of text that is neither sampled nor an observation; it holds no image."""

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        """Return the ids of an observation; each ``<image>`` is one placeholder."""
