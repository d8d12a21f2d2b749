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
from dataclasses import replace
from typing import NamedTuple, Protocol

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.codec import TokenCodec
from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, ReturnedImage
from swift_thyme.core.observation import render_observation
from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.core.reading import Reading, read
from swift_thyme.core.repetition import repetition_end
from swift_thyme.core.summary import EndReason, TrajectorySummary
from swift_thyme.core.turn_end import TurnEnd, find_turn_end

__all__ = [
    "CodeSession",
    "DEFAULT_MAX_IMAGES",
    "DEFAULT_MAX_TURNS",
    "Limits",
    "Trajectory",
    "TurnOutcome",
]

logger = logging.getLogger(__name__)

DEFAULT_MAX_TURNS = 4
"""Turns of a trajectory where nothing else is said (``GEN_ITER_LIMIT``)."""
DEFAULT_MAX_IMAGES = 6
"""Images of a prompt and all observations where nothing else is said (the published recipe)."""


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


class TurnOutcome(NamedTuple):
    """What follows a turn."""

    done: bool
    """True: the trajectory is over. False: append the observation and sample the next turn."""
    kept: int
    """How many of the turn's sampled ids belong to the trajectory: all, or less after a cut."""
    observation_ids: list[int]
    """Ids of the observation, not trained on; empty where there is nothing to say."""
    block: BlockRecord | None = None
    """The block that was executed, also one whose observation does not enter the context."""
    closing_ids: Sequence[int] = ()
    """Ids of the rest of a closing tag whose last token carried more; they stand before the
    observation and are not trained on either."""

    @property
    def appended_ids(self) -> list[int]:
        """All ids to append to the kept ones, also where the trajectory is over; loss mask 0."""
        return [*self.closing_ids, *self.observation_ids]

    @property
    def images(self) -> tuple[ReturnedImage, ...]:
        """The images behind the placeholders in ``observation_ids``, in order."""
        return self.block.images if self.block is not None and self.observation_ids else ()


class _Taken(NamedTuple):
    """What of a turn entered the trajectory."""

    kept: int
    closing_ids: list[int]


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
        self._n_ids = 0
        # What the model wrote since the last observation: a block may span several turns, and so
        # may a character.
        self._open_ids: list[int] = []
        self._reading: Reading | None = None

    async def advance(self, token_ids: Sequence[int], finish_reason: str | None) -> TurnOutcome:
        """Take one sampled turn and say what follows.

        Args:
            token_ids: Ids that the engine sampled in this turn, a final end-of-text id included.
            finish_reason: ``length`` where the engine cut the turn, ``deadline`` where the
                rollout's deadline did, else ``stop``.

        Returns:
            The outcome. After one with ``done`` set, ``summary.end_reason`` is set, the sandbox
            session is closed, and the trajectory takes no more turns.
        """
        try:
            outcome = await self._advance(token_ids, finish_reason)
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
        room = await self._room(len(token_ids))
        turn = find_turn_end(self._codec.decode, self._open_ids, token_ids[:room])
        loop_end = repetition_end(token_ids[: turn.sampled]) if limits.stop_repetition else None
        if loop_end is not None:
            # An engine with the sampling hook has stopped here too, with an end-of-text id of ours.
            self._take(token_ids[:loop_end], [])
            self._reading = read(self._codec.decode(self._open_ids))
            return self._end(EndReason.REPETITION, _Taken(loop_end, []))
        taken = self._take_turn(token_ids, turn)
        if taken is None:
            return self._end(EndReason.LENGTH_LIMIT, _Taken(turn.kept, []))
        if not turn.is_closed and (room < len(token_ids) or finish_reason == "length"):
            return self._end(EndReason.LENGTH_LIMIT, taken)
        if not turn.is_closed and finish_reason == EndReason.DEADLINE.value:
            return self._end(EndReason.DEADLINE, taken)
        is_last = limits.max_turns is not None and summary.turns >= limits.max_turns
        program = turn.reading.pending_program
        if program is not None:
            if is_last:
                return self._end(EndReason.TURN_LIMIT, taken)
            return await self._run(program, turn.reading, taken)
        if turn.is_closed:
            return self._end(EndReason.ANSWER, taken)
        if not self._stopped_by_us(token_ids[: turn.kept]):
            return self._end(EndReason.END_OF_TEXT, taken)
        # A tag in prose or in a string of the program stopped the engine: just go on.
        if is_last:
            return self._end(EndReason.TURN_LIMIT, taken)
        return TurnOutcome(False, taken.kept, [])

    def _take_turn(self, token_ids: Sequence[int], turn: TurnEnd) -> _Taken | None:
        """Take what belongs to the turn; None where the rest of its tag finds no room."""
        closing_ids = self._codec.encode_text(turn.missing) if turn.missing else []
        most = self._limits.max_total_tokens
        added = turn.kept + len(closing_ids)
        fits = most is None or self._length is None or self._length + added <= most
        self._take(token_ids[: turn.kept], closing_ids if fits else [])
        self._reading = turn.reading
        if not fits:
            return None
        self.summary.boundary_repairs += bool(closing_ids)
        return _Taken(turn.kept, closing_ids)

    def _take(self, token_ids: Sequence[int], closing_ids: Sequence[int]) -> None:
        """Count ids that enter the trajectory."""
        self.summary.sampled_tokens += len(token_ids)
        self._open_ids += [*token_ids, *closing_ids]
        self._n_ids += len(token_ids) + len(closing_ids)
        if self._length is not None:
            self._length += len(token_ids) + len(closing_ids)

    def _stopped_by_us(self, token_ids: Sequence[int]) -> bool:
        """Tell whether a stop string that ends no turn has stopped the engine.

        An engine stops at the first one that it finds, so it is enough that there is one, and that
        no end of text follows.
        """
        if not token_ids or self._codec.is_end_of_text(token_ids[-1]):
            return False
        text = self._codec.decode(token_ids)
        return any(string in text for string in STOP_STRINGS)

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

    async def _run(self, program: str, reading: Reading, taken: _Taken) -> TurnOutcome:
        summary, limits = self.summary, self._limits
        summary.blocks_written += len(reading.blocks)
        self._open_ids, self._reading = [], None
        try:
            if self._session is None:
                self._session = await self._open_session()
            result = await self._session.run(program, timeout_s=limits.block_timeout_s)
        except SandboxUnavailableError:
            logger.exception("trajectory %s: sandbox failed in turn %d", self._name, self.turn)
            return self._end(EndReason.SANDBOX_FAILURE, taken)
        observation = render_observation(result, max_only_saved=self._room_for_saved(result))
        block = BlockRecord(
            status=result.status.value,
            turn=summary.turns,
            code=program,
            output=observation.text,
            images=observation.images,
            repairs=tuple(result.repairs),
            duration_s=result.duration_s,
            offset=self._n_ids,
            entered=False,
        )
        summary.blocks.append(block)
        n_images = self._n_images + len(observation.images)
        if limits.max_images is not None and n_images > limits.max_images:
            return self._end(EndReason.IMAGE_LIMIT, taken, block)
        encoded = await asyncio.to_thread(self._codec.encode_observation, observation)
        if self._length is not None and limits.max_total_tokens is not None:
            # An observation that leaves no room to react to it is no use either.
            if self._length + encoded.expanded_length >= limits.max_total_tokens:
                return self._end(EndReason.LENGTH_LIMIT, taken, block)
            self._length += encoded.expanded_length
        self._n_images = n_images
        block = replace(
            block,
            n_ids=len(encoded.token_ids),
            tokens=encoded.expanded_length,
            entered=True,
        )
        summary.blocks[-1] = block
        self._n_ids += block.n_ids
        return TurnOutcome(False, taken.kept, encoded.token_ids, block, taken.closing_ids)

    def _room_for_saved(self, result: ExecutionResult) -> int | None:
        """Return how many images of a block are shown whose paths it did not print.

        They leave room for one image that the next block prints, so that they never end a
        trajectory.
        """
        if self._limits.max_images is None:
            return None
        printed = sum(image.printed for image in result.images)
        return max(0, self._limits.max_images - self._n_images - printed - 1)

    def _end(
        self, reason: EndReason, taken: _Taken, block: BlockRecord | None = None
    ) -> TurnOutcome:
        if self._reading is not None:
            self.summary.blocks_written += len(self._reading.blocks)
        self.summary.end_reason = reason
        return TurnOutcome(True, taken.kept, [], block, taken.closing_ids)
