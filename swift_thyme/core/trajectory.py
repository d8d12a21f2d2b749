"""One trajectory: all turns of one sample, and the decision what follows each turn.

This module knows the protocol, the limits and the sandbox, and nothing of engines, trainers or
event-loop drivers: whoever samples tokens calls :meth:`Trajectory.advance` after each turn and does
what the outcome says. Training, serving and evaluation share it, so they count and cut alike.

Tokens are counted as the model sees them: an image of n visual tokens counts n, wherever it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.observation import Observation, render_observation
from swift_thyme.core.protocol import (
    ANSWER_CLOSE,
    STOP_STRINGS,
    code_blocks,
    has_open_code_block,
    pending_code,
)
from swift_thyme.core.repetition import repetition_end

if TYPE_CHECKING:
    from swift_thyme.core.execution import ExecutionResult, ReturnedImage

__all__ = [
    "CodeSession",
    "DEFAULT_MAX_IMAGES",
    "DEFAULT_MAX_TURNS",
    "EncodedObservation",
    "EndReason",
    "Limits",
    "TokenCodec",
    "Trajectory",
    "TrajectorySummary",
    "TurnOutcome",
]

logger = logging.getLogger(__name__)

DEFAULT_MAX_TURNS = 4
"""Turns of a trajectory where nothing else is said (``GEN_ITER_LIMIT``)."""
DEFAULT_MAX_IMAGES = 6
"""Images of a prompt and all observations where nothing else is said (the published recipe)."""


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
    """A turn evidently looped (``sampling.repetition``); what followed is cut off."""
    IMAGE_LIMIT = "image_limit"
    """The next observation holds more images than the prompt may have."""
    SANDBOX_FAILURE = "sandbox_failure"
    """The sandbox itself failed; the trajectory says nothing about the model."""


class Limits(NamedTuple):
    """What a trajectory may use; None means no limit."""

    max_turns: int | None = None
    """Sampled turns."""
    max_images: int | None = None
    """Images in the prompt and in all observations together."""
    max_sampled_tokens: int | None = None
    """Tokens sampled in all turns together."""
    max_total_tokens: int | None = None
    """Prompt, sampled tokens and observations together, images expanded."""
    block_timeout_s: float | None = None
    """Wall time of one code block in seconds; None leaves it to the sandbox."""
    stop_repetition: bool = True
    """Whether a turn that evidently loops ends the trajectory."""


class EncodedObservation(NamedTuple):
    """An observation as token ids."""

    token_ids: list[int]
    """Ids with ONE placeholder per image."""
    expanded_length: int
    """Length once every placeholder is expanded to its visual tokens."""


class CodeSession(Protocol):
    """What a trajectory needs of a sandbox session."""

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Run one block.

        Args:
            code: The program, without tags or fences.
            timeout_s: Wall-clock limit in seconds; None takes the session's own.

        Raises:
            SandboxUnavailableError: The sandbox failed, not the code.
        """

    async def close(self) -> None:
        """End the session; may be called twice."""


class TokenCodec(Protocol):
    """What a trajectory needs to know about the model's tokens."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included."""

    def is_end_of_text(self, token_id: int) -> bool:
        """Tell whether the id ends a text (not: a stop string)."""

    def prompt_length(self) -> int:
        """Return the length of this trajectory's prompt in tokens, images expanded."""

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        """Return the ids of an observation; each ``<image>`` is one placeholder."""


class TurnOutcome(NamedTuple):
    """What follows a turn."""

    done: bool
    """True: the trajectory is over. False: append the observation and sample the next turn."""
    kept: int
    """How many of the turn's sampled ids belong to the trajectory: all, or less after a cut."""
    observation_ids: list[int]
    """Ids to append, not trained on; empty where there is nothing to say."""
    images: tuple[ReturnedImage, ...]
    """The images behind the placeholders in ``observation_ids``, in order."""


@dataclass
class TrajectorySummary:
    """Counts of one trajectory; JSON-serialisable through :meth:`as_infos`."""

    turns: int = 0
    blocks: int = 0
    """Code blocks written, a last one that was cut included."""
    statuses: list[str] = field(default_factory=list)
    """Sandbox status of each block that was executed, in order."""
    repairs: list[str] = field(default_factory=list)
    images: int = 0
    """Returned images that entered the context."""
    observations: int = 0
    """Observations of blocks with status ``ok`` that entered the context."""
    sampled_tokens: int = 0
    sandbox_s: float = 0.0
    """Wall time spent in the sandbox, in seconds."""
    block_s: list[float] = field(default_factory=list)
    """Wall time of each executed block in the sandbox, in seconds."""
    block_repairs: list[list[str]] = field(default_factory=list)
    """Repairs of each executed block."""
    observation_tokens: list[int] = field(default_factory=list)
    """Length of each observation that entered the context, images expanded."""
    end_reason: EndReason | None = None

    @property
    def blocks_ran(self) -> int:
        """Executed blocks that ended without an error."""
        return self.statuses.count("ok")

    @property
    def tool_used(self) -> bool:
        """At least one block ran and its output entered the context."""
        return self.observations > 0

    def as_infos(self) -> dict[str, Any]:
        """Return the counts under the names that ``rollout_infos`` carries."""
        return {
            "thyme_turns": self.turns,
            "thyme_blocks": self.blocks,
            "thyme_blocks_ran": self.blocks_ran,
            "thyme_statuses": list(self.statuses),
            "thyme_repairs": list(self.repairs),
            "thyme_images": self.images,
            "thyme_tool_used": self.tool_used,
            "thyme_sampled_tokens": self.sampled_tokens,
            "thyme_sandbox_s": round(self.sandbox_s, 4),
            "thyme_block_s": [round(seconds, 4) for seconds in self.block_s],
            "thyme_block_repairs": [list(repairs) for repairs in self.block_repairs],
            "thyme_observation_tokens": list(self.observation_tokens),
            "thyme_end_reason": self.end_reason.value if self.end_reason else None,
        }


class Trajectory:
    """The state of one sample between its turns.

    Args:
        codec: The model's tokens, bound to this trajectory's prompt.
        limits: What the trajectory may use.
        open_session: Opens the sandbox session; called at the first code block only.
        prompt_images: Number of images in the prompt.
        name: Identifies the trajectory in the log.
    """

    def __init__(
        self,
        codec: TokenCodec,
        limits: Limits,
        open_session: Callable[[], Awaitable[CodeSession]],
        *,
        prompt_images: int = 0,
        name: str = "",
    ) -> None:
        self.summary = TrajectorySummary()
        self._codec = codec
        self._limits = limits
        self._open_session = open_session
        self._session: CodeSession | None = None
        self._n_images = prompt_images
        self._name = name
        self._length: int | None = None
        # What the model wrote since the last observation: a block may span several turns.
        self._open_text = ""

    async def advance(self, token_ids: Sequence[int], finish_reason: str | None) -> TurnOutcome:
        """Take one sampled turn and say what follows.

        Args:
            token_ids: Ids that the engine sampled in this turn, a final end-of-text id included.
            finish_reason: ``length`` where the engine cut the turn, else ``stop``.

        Returns:
            The outcome. After one with ``done`` set, ``summary.end_reason`` is set, the sandbox
            session is closed, and the trajectory takes no more turns.
        """
        try:
            outcome = await self._advance(token_ids, finish_reason)
        except SandboxUnavailableError:
            logger.exception("trajectory %s: sandbox failed in turn %d", self._name, self.turn)
            outcome = self._end(EndReason.SANDBOX_FAILURE, len(token_ids))
        except BaseException:
            await self.close()
            raise
        if outcome.done:
            await self.close()
        return outcome

    @property
    def turn(self) -> int:
        """Number of the current turn, from 1."""
        return self.summary.turns

    async def close(self) -> None:
        """Release the sandbox session; harmless when there is none."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _advance(self, token_ids: Sequence[int], finish_reason: str | None) -> TurnOutcome:
        summary, limits = self.summary, self._limits
        summary.turns += 1
        kept = await self._room(len(token_ids))
        was_cut = kept < len(token_ids) or finish_reason == "length"
        loop_end = repetition_end(token_ids[:kept]) if limits.stop_repetition else None
        if loop_end is not None:
            # An engine with the sampling hook has stopped here too, with an end-of-text id of ours.
            kept = loop_end
        summary.sampled_tokens += kept
        if self._length is not None:
            self._length += kept
        self._open_text += self._codec.decode(token_ids[:kept])
        text = self._open_text
        code = pending_code(text)
        block_is_open = has_open_code_block(text)
        if loop_end is not None:
            return self._end(EndReason.REPETITION, kept)
        if was_cut:
            return self._end(EndReason.LENGTH_LIMIT, kept)
        if code is None:
            stripped = text.rstrip().lower()
            if stripped.endswith(ANSWER_CLOSE) and not block_is_open:
                return self._end(EndReason.ANSWER, kept)
            stopped_by_us = stripped.endswith(STOP_STRINGS)
            if not stopped_by_us or kept == 0 or self._codec.is_end_of_text(token_ids[kept - 1]):
                return self._end(EndReason.END_OF_TEXT, kept)
            # A tag in prose or in a string of the program stopped the engine: just go on.
            if limits.max_turns is not None and summary.turns >= limits.max_turns:
                return self._end(EndReason.TURN_LIMIT, kept)
            return TurnOutcome(False, kept, [], ())
        if limits.max_turns is not None and summary.turns >= limits.max_turns:
            return self._end(EndReason.TURN_LIMIT, kept)
        return await self._run(code, kept)

    async def _room(self, n_sampled: int) -> int:
        """Return how many of the sampled ids the limits leave."""
        kept = n_sampled
        limits = self._limits
        if limits.max_sampled_tokens is not None:
            kept = min(kept, limits.max_sampled_tokens - self.summary.sampled_tokens)
        if limits.max_total_tokens is not None:
            if self._length is None:
                self._length = await asyncio.to_thread(self._codec.prompt_length)
            kept = min(kept, limits.max_total_tokens - self._length)
        return max(kept, 0)

    async def _run(self, code: str, kept: int) -> TurnOutcome:
        summary, limits = self.summary, self._limits
        self._count_blocks()
        if self._session is None:
            self._session = await self._open_session()
        result: ExecutionResult = await self._session.run(code, timeout_s=limits.block_timeout_s)
        summary.statuses.append(str(result.status.value))
        summary.repairs.extend(result.repairs)
        summary.sandbox_s += result.duration_s
        summary.block_s.append(result.duration_s)
        summary.block_repairs.append(list(result.repairs))
        observation = render_observation(result)
        n_images = self._n_images + len(observation.images)
        if limits.max_images is not None and n_images > limits.max_images:
            return self._end(EndReason.IMAGE_LIMIT, kept)
        encoded = await asyncio.to_thread(self._codec.encode_observation, observation)
        if self._length is not None and limits.max_total_tokens is not None:
            # An observation that leaves no room to react to it is no use either.
            if self._length + encoded.expanded_length >= limits.max_total_tokens:
                return self._end(EndReason.LENGTH_LIMIT, kept)
            self._length += encoded.expanded_length
        self._n_images = n_images
        summary.images += len(observation.images)
        summary.observations += result.status.value == "ok"
        summary.observation_tokens.append(encoded.expanded_length)
        return TurnOutcome(False, kept, encoded.token_ids, observation.images)

    def _count_blocks(self) -> None:
        text, self._open_text = self._open_text, ""
        self.summary.blocks += len(code_blocks(text)) + has_open_code_block(text)

    def _end(self, reason: EndReason, kept: int) -> TurnOutcome:
        self._count_blocks()
        self.summary.end_reason = reason
        return TurnOutcome(True, kept, [], ())
