"""One trajectory, turn by turn: sample, let the trajectory decide, append, go on.

What a turn means, which limits hold, what the code gave and why it is over is decided by
:class:`swift_thyme.core.trajectory.Trajectory`, as in training. This module drives it with an
engine and says what happens as it happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.errors import DataError
from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.core.protocol import ANSWER_CLOSE, IMAGE_TAG
from swift_thyme.core.reading import read
from swift_thyme.core.segment import (
    Segment,
    observation_segment,
    split_sampled_text,
    with_opening,
)
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.core.trajectory import (
    DEFAULT_MAX_TURNS,
    CodeSession,
    Limits,
    Trajectory,
    TurnOutcome,
)
from swift_thyme.core.trajectory_files import TrajectoryRecord, TrajectoryWriter
from swift_thyme.core.turn_end import find_stop_tag
from swift_thyme.inference.engine import Conversation, Engine, Sampling
from swift_thyme.inference.task import Task

if TYPE_CHECKING:
    from swift_thyme.sandbox import BackendSession, SandboxBackend

__all__ = [
    "FinishedTrajectory",
    "LoopSettings",
    "ObservationEvent",
    "TextEvent",
    "run_trajectory",
]

logger = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 3196
"""Most sampled tokens of a trajectory; the completion length of the published recipe."""

NO_TOOL_ERROR = "code cannot be run here; answer from what you see"
"""What a code block gives where the tool is switched off."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How a trajectory is run."""

    sampling: Sampling = field(default_factory=Sampling)
    max_turns: int = DEFAULT_MAX_TURNS
    """Sampled turns; the last one cannot run code."""
    max_tokens: int = DEFAULT_MAX_TOKENS
    """Tokens sampled in all turns together."""
    tools: bool = True
    """Whether code runs; without, a block gives a fixed error and the model goes on."""
    block_timeout_s: float | None = None
    """Wall time of one code block, in seconds; None leaves it to the sandbox."""
    stop_repetition: bool = True
    """Whether a generation that evidently loops is ended (``SamplingSettings.stop_repetition``)."""


class TextEvent(NamedTuple):
    """The model wrote something, or its template in front of it."""

    text: str


class ObservationEvent(NamedTuple):
    """A block was run and its output entered the context."""

    segment: Segment[ReturnedImage]


@dataclass(frozen=True, slots=True)
class FinishedTrajectory:
    """The last event."""

    task: Task
    segments: tuple[Segment[ReturnedImage], ...]
    """The assistant's turn, in order."""
    summary: TrajectorySummary
    prompt_tokens: int | None
    sampled_tokens: int | None
    """None where the engine does not count."""
    total_s: float
    """Wall time from the first token asked for to the end, in seconds."""

    @property
    def completion(self) -> str:
        """The assistant's turn as text."""
        return "".join(segment.text for segment in self.segments)

    @property
    def answer(self) -> str | None:
        """Text of the last answer block that the model wrote outside code; None without any."""
        return read(self.completion).answer

    def to_record(self, writer: TrajectoryWriter, **fields: Any) -> TrajectoryRecord:
        """Return the record, with its images stored through ``writer``.

        Args:
            writer: Stores the images.
            fields: Further fields of :class:`TrajectoryRecord`, which win.
        """
        summary = self.summary
        known: dict[str, Any] = {
            "id": self.task.id,
            "question": self.task.question,
            "system": self.task.system,
            "prompt": self.task.prompt,
            "images": tuple(
                writer.add_image(i.data, name=i.path, size=(i.width, i.height))
                for i in self.task.images
            ),
            "answer": self.answer,
            "end_reason": summary.end_reason.value if summary.end_reason else None,
            "tool_used": summary.tool_used,
            "statuses": tuple(summary.statuses),
            "repairs": tuple(summary.repairs),
            "turns": summary.turns,
            "prompt_tokens": self.prompt_tokens,
            "sampled_tokens": self.sampled_tokens,
            "timings": {
                "total_s": round(self.total_s, 4),
                "sandbox_s": round(summary.sandbox_s, 4),
            },
        }
        segments = tuple(writer.add_segment(segment) for segment in self.segments)
        return TrajectoryRecord(segments=segments, **(known | fields))


Event = TextEvent | ObservationEvent | FinishedTrajectory


class _NoTool:
    """Stands in for a sandbox session where the tool is switched off."""

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        return ExecutionResult(ExecutionStatus.ERROR, error=NO_TOOL_ERROR)

    async def close(self) -> None:
        return


async def _open_session(pool: SandboxBackend, task: Task) -> BackendSession:
    """Open a session; when we are cancelled meanwhile, close it as soon as it is there."""
    from swift_thyme.sandbox import InputImage

    images = [InputImage(path=image.path, source=image.data) for image in task.images]
    opening = asyncio.ensure_future(pool.open(images))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_orphan)
        raise


def _close_orphan(opening: asyncio.Future[BackendSession]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close_later()


async def run_trajectory(
    engine: Engine,
    task: Task,
    pool: SandboxBackend | None,
    settings: LoopSettings | None = None,
    *,
    stream: bool = True,
) -> AsyncGenerator[Event, None]:
    """Run a trajectory and yield what happens; the last event is a :class:`FinishedTrajectory`.

    Closing the iterator, or cancelling whoever iterates, stops the engine's work and ends the
    sandbox session.

    Args:
        engine: Samples the turns.
        task: Where it starts.
        pool: Runs the code; may be None where ``settings.tools`` is off.
        settings: How; None takes the defaults.
        stream: Whether text is wanted piece by piece; otherwise there are no text events.

    Raises:
        DataError: The prompt cannot be used; the message says why.
        EngineError: The engine failed. What the trajectory did so far is lost.
    """
    settings = settings or LoopSettings()
    if len(task.images) > engine.max_images:
        raise DataError(
            f"the prompt has {len(task.images)} images, the engine takes at most "
            f"{engine.max_images} (--max-images)"
        )
    started = time.monotonic()
    conversation = await engine.begin(task)
    prompt_tokens, most = conversation.prompt_tokens, engine.max_total_tokens
    if prompt_tokens is not None and most is not None and prompt_tokens >= most:
        raise DataError(
            f"the prompt has {prompt_tokens} tokens, prompt and answer together may have {most} "
            "(--max-model-len; --max-pixels makes images shorter)"
        )
    limits = Limits(
        max_turns=settings.max_turns,
        max_images=engine.max_images,
        max_sampled_tokens=settings.max_tokens,
        max_total_tokens=engine.max_total_tokens,
        block_timeout_s=settings.block_timeout_s,
        stop_repetition=settings.stop_repetition,
    )
    if settings.tools:
        if pool is None:
            raise DataError("a trajectory with tools needs a sandbox pool")
        sandbox_pool = pool

    async def open_session() -> CodeSession:
        return await _open_session(sandbox_pool, task) if settings.tools else _NoTool()

    trajectory = Trajectory(
        conversation.codec, limits, open_session, prompt_images=len(task.images), name=task.id
    )
    driver = _Driver(conversation, trajectory, limits, settings, stream)
    if stream and conversation.opening:
        yield TextEvent(conversation.opening)
    try:
        async with aclosing(driver.events()) as events:
            async for event in events:
                yield event
    finally:
        await trajectory.close()
    summary = trajectory.summary
    if not settings.tools:
        # Nothing was executed.
        summary.blocks.clear()
    yield FinishedTrajectory(
        task=task,
        segments=with_opening(driver.segments, conversation.opening),
        summary=summary,
        prompt_tokens=conversation.prompt_tokens,
        sampled_tokens=summary.sampled_tokens if conversation.counts_tokens else None,
        total_s=time.monotonic() - started,
    )


class _Driver:
    """The turns of one trajectory."""

    def __init__(
        self,
        conversation: Conversation,
        trajectory: Trajectory,
        limits: Limits,
        settings: LoopSettings,
        stream: bool,
    ) -> None:
        self.segments: list[Segment[ReturnedImage]] = []
        self._conversation = conversation
        self._trajectory = trajectory
        self._limits = limits
        self._settings = settings
        self._stream = stream
        # What entered the trajectory since the last observation: a block may span several turns.
        self._open_ids: list[int] = []
        self._shown = _ShownText(conversation.codec.decode)

    async def events(self) -> AsyncGenerator[TextEvent | ObservationEvent, None]:
        """Yield the events of all turns; afterwards ``segments`` is complete."""
        done = False
        while not done:
            ids: list[int] = []
            reason = "length"
            room = self._room()
            if room is None or room > 0:
                chunks = self._conversation.sample(
                    self._settings.sampling,
                    seed=self._settings.sampling.turn_seed(
                        self._trajectory._name, self._trajectory.turn
                    ),
                    max_tokens=room,
                    stream=self._stream,
                )
                async with aclosing(chunks) as closing_chunks:
                    async for chunk in closing_chunks:
                        ids.extend(chunk.token_ids)
                        reason = chunk.finish_reason or reason
                        if self._stream:
                            new = self._shown.push(self._without_end(chunk.token_ids))
                            if new:
                                yield TextEvent(new)
            outcome = await self._trajectory.advance(ids, reason)
            self._open_ids.extend([*ids[: outcome.kept], *outcome.closing_ids])
            if not outcome.done:
                self._conversation.extend(ids, outcome)
            goes_on = not outcome.done and not outcome.observation_ids
            rest = self._shown.go_on() if goes_on else self._close_open_text()
            if self._stream and rest:
                yield TextEvent(rest)
            if outcome.block is not None and outcome.observation_ids:
                observation = self._observation(outcome, outcome.block)
                self.segments.append(observation)
                yield ObservationEvent(observation)
            done = outcome.done

    def _room(self) -> int | None:
        """Return how many tokens the next turn may have; None for no limit."""
        rooms = []
        limits, length = self._limits, self._conversation.length
        if limits.max_sampled_tokens is not None:
            rooms.append(limits.max_sampled_tokens - self._trajectory.summary.sampled_tokens)
        if limits.max_total_tokens is not None and length is not None:
            rooms.append(limits.max_total_tokens - length)
        return min(rooms) if rooms else None

    def _without_end(self, ids: list[int]) -> list[int]:
        codec = self._conversation.codec
        return ids[:-1] if ids and codec.is_end_of_text(ids[-1]) else ids

    def _observation(self, outcome: TurnOutcome, block: BlockRecord) -> Segment[ReturnedImage]:
        codec = self._conversation.codec
        placeholder = getattr(codec, "image_text", IMAGE_TAG)
        text = codec.decode(outcome.observation_ids).replace(placeholder, IMAGE_TAG)
        segment = observation_segment(block, text)
        if self._conversation.length is None:
            segment = replace(segment, tokens=None)
        return segment if self._settings.tools else replace(segment, status=None)

    def _close_open_text(self) -> str:
        """Make segments of the open text, and return what of it has not been shown."""
        codec, ids = self._conversation.codec, self._without_end(self._open_ids)
        self._open_ids = []
        whole = codec.decode(ids)
        split = split_sampled_text(whole)
        tokens: Sequence[int | None] = [None] * len(split)
        if self._conversation.counts_tokens:
            tokens = _tokens_of(ids, [len(text) for _, text in split], codec.decode)
        for (kind, text), count in zip(split, tokens, strict=True):
            self.segments.append(Segment(kind, text, tokens=count))
        return self._shown.close(whole)


def _tokens_of(
    ids: list[int], lengths: list[int], decode: Callable[[Sequence[int]], str]
) -> list[int]:
    """Share tokens out to consecutive texts; a token that spans two counts for the first."""
    counts = [0] * len(lengths)
    if len(lengths) == 1:
        return [len(ids)]
    text = _TextStream(decode)
    index, end, position = 0, lengths[0] if lengths else 0, 0
    for token_id in ids:
        while position >= end and index + 1 < len(lengths):
            index += 1
            end += lengths[index]
        counts[index] += 1
        position += len(text.push([token_id]))
    return counts


class _TextStream:
    """Turns ids into text as they come; holds back what may be half a character.

    The texts joined are the text of all ids, however these are cut into pieces.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        self._pending.extend(ids)
        text = self._decode(self._pending) if self._pending else ""
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._pending = []
        return text


class _ShownText:
    """Text since the last observation, as far as it is certain to stay.

    What a token carries behind a closing tag waits until the trajectory has decided about the turn.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._stream = _TextStream(decode)
        self._decode = decode
        self._text = ""
        self._n_shown = 0
        self._searched = 0
        self._is_held = False

    def push(self, ids: Sequence[int]) -> str:
        """Take sampled ids and return new text to show."""
        self._text += self._stream.push(ids)
        if self._is_held:
            return ""
        found = find_stop_tag(self._text, self._searched)
        self._is_held = found is not None
        end = len(self._text) if found is None else found
        # A tag that is complete now has begun at most its own length before.
        self._searched = max(self._searched, len(self._text) - len(ANSWER_CLOSE))
        return self._show(self._text[:end])

    def go_on(self) -> str:
        """The text goes on in another turn; return what waited."""
        self._is_held, self._searched = False, len(self._text)
        return self._show(self._text)

    def close(self, whole: str) -> str:
        """The text is over; return what of it has not been shown, and begin anew."""
        rest = whole[self._n_shown :]
        self._stream = _TextStream(self._decode)
        self._text, self._n_shown, self._searched, self._is_held = "", 0, 0, False
        return rest

    def _show(self, text: str) -> str:
        new = text[self._n_shown :]
        self._n_shown = max(self._n_shown, len(text))
        return new
