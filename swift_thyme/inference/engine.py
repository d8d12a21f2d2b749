"""What the loop needs of an engine: conversations that sample one turn after the other."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from swift_thyme.core.codec import TokenCodec
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.trajectory import TurnOutcome
from swift_thyme.inference.task import Task

__all__ = ["Chunk", "Conversation", "Engine", "Sampling"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Raises:
        SettingsError: A value is out of its range.
    """

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    repetition_penalty: float = 1.0
    seed: int = 0
    """Each turn of each trajectory draws from a generator of its own, made from this number, the
    trajectory's id and the number of the turn: the order of trajectories changes nothing."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 10.0:
            raise SettingsError(f"temperature must lie between 0 and 10, not {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise SettingsError(f"top_p must be more than 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise SettingsError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0.0 < self.repetition_penalty <= 10.0:
            raise SettingsError(
                f"repetition_penalty must lie between 0 and 10, not {self.repetition_penalty}"
            )

    def turn_seed(self, trajectory_id: str, turn: int) -> int:
        """Return the seed of one turn, 0 to 2**63 - 1."""
        text = f"{self.seed}/{trajectory_id}/{turn}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Chunk(NamedTuple):
    """Some of the ids of a turn, in order."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"] | None = None
    """Set in the last chunk of a turn."""


class Conversation(Protocol):
    """One trajectory inside an engine."""

    @property
    def codec(self) -> TokenCodec:
        """The model's tokens, bound to this trajectory's prompt."""

    @property
    def opening(self) -> str:
        """What stands in front of the turn before anything is sampled, as text; mostly nothing."""

    @property
    def length(self) -> int | None:
        """Prompt and turn so far in tokens, images expanded; None where the engine cannot tell."""

    @property
    def prompt_tokens(self) -> int | None:
        """Length of the prompt in tokens, images expanded; None where not known (yet)."""

    @property
    def counts_tokens(self) -> bool:
        """Whether one id is one token of the model."""

    def sample(
        self, sampling: Sampling, *, seed: int, max_tokens: int | None, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        """Sample the next turn: up to a stop string of the protocol, an end, or a limit.

        Closing the iterator stops the engine's work on the turn.

        Args:
            sampling: How to draw.
            seed: Seed of this turn.
            max_tokens: Most tokens to sample; None leaves it to the engine.
            stream: Whether chunks are wanted as they come; False allows one chunk for all.

        Raises:
            EngineError: The engine failed.
        """

    def extend(self, token_ids: Sequence[int], outcome: TurnOutcome) -> None:
        """Append a turn and what follows it.

        Args:
            token_ids: The ids that were sampled.
            outcome: What the trajectory decided about them.
        """


class Engine(Protocol):
    """Samples the turns of many conversations at once."""

    @property
    def model_name(self) -> str:
        """Name of the model, for reports."""

    @property
    def max_images(self) -> int:
        """Most images of one trajectory, returned ones included."""

    @property
    def max_total_tokens(self) -> int | None:
        """Longest prompt and turn together, images expanded; None where unknown."""

    async def begin(self, task: Task) -> Conversation:
        """Encode a prompt and begin its conversation.

        Raises:
            DataError: The prompt cannot be encoded.
            EngineError: The engine failed.
        """

    async def close(self) -> None:
        """Release everything; may be called twice."""
