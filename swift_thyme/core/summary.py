"""Counts of one trajectory, all of them derived from its blocks; and why it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from swift_thyme.core.block import BlockRecord

__all__ = ["EndReason", "TrajectorySummary"]


class EndReason(str, Enum):
    """Why a trajectory is over."""

    ANSWER = "answer"
    """The model closed its answer."""
    END_OF_TEXT = "end_of_text"
    """The model ended its text, or a stop word of the user's matched, without an answer."""
    TURN_LIMIT = "turn_limit"
    """The last allowed turn ended with a code block, whose output nobody could read."""
    LENGTH_LIMIT = "length_limit"
    """A token limit cut the text, or the next observation would not fit."""
    REPETITION = "repetition"
    """A turn evidently looped (``core.repetition``); the rest is cut off."""
    IMAGE_LIMIT = "image_limit"
    """The next observation holds more images than the prompt may have."""
    DEADLINE = "deadline"
    """The rollout's deadline (``THYME_ROLLOUT_DEADLINE_S``) ended it in the middle of a turn."""
    SANDBOX_FAILURE = "sandbox_failure"
    """The sandbox itself failed; the trajectory says nothing about the model."""


@dataclass(slots=True)
class TrajectorySummary:
    """What one trajectory did so far."""

    turns: int = 0
    blocks_written: int = 0
    """Code blocks that the model wrote, a last one that was cut included."""
    blocks: list[BlockRecord] = field(default_factory=list)
    """The executed blocks, in order."""
    blocks_recorded: bool = True
    """False where another scheduler recorded the trajectory without its blocks."""
    sampled_tokens: int = 0
    boundary_repairs: int = 0
    """Turns whose closing tag ended inside a token that carried more (``core.turn_end``): the token
    was left out and the rest of the tag appended, not trained on."""
    end_reason: EndReason | None = None
    """None while it goes on."""

    @property
    def statuses(self) -> list[str]:
        """How each executed block ended, in order."""
        return [block.status for block in self.blocks]

    @property
    def repairs(self) -> list[str]:
        """The repairs of all blocks, in order."""
        return [name for block in self.blocks for name in block.repairs]

    @property
    def images(self) -> int:
        """Returned images that entered the context."""
        return sum(len(block.images) for block in self.blocks if block.entered)

    @property
    def blocks_ran(self) -> int:
        """Executed blocks that ended without an error."""
        return sum(block.ran for block in self.blocks)

    @property
    def tool_used(self) -> bool:
        """Whether at least one block ran and its output entered the context."""
        return any(block.ran and block.entered for block in self.blocks)

    @property
    def sandbox_s(self) -> float:
        """Wall time spent in the sandbox, in seconds."""
        return sum(block.duration_s for block in self.blocks)
