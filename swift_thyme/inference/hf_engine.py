"""The transformers engine: turns of several trajectories in one batch, in one worker thread.

``generate`` keeps its rows to the end of the longest, so a batch holds the turns that wait at the
moment. Stop strings, limits, cancelling and random numbers belong to each row, which makes a
trajectory's tokens independent of what else is in its batch (up to rounding).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator
from typing import Any

import torch  # noqa: TID253 - an engine adapter
from transformers import (  # noqa: TID253 - an engine adapter
    GenerationConfig,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift_thyme.core.errors import EngineError
from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.host.generation import encode_turn, generate
from swift_thyme.inference.conversation import ConversationState
from swift_thyme.inference.engine import Chunk, Sampling
from swift_thyme.inference.task import Task

__all__ = ["TransformersEngine"]

_JOIN_S = 20.0
_STOP_WINDOW = 24
"""Tokens at the end of a turn in which a stop string is looked for."""


class _Job:
    """One turn that waits for its tokens, or gets them."""

    def __init__(
        self, encoded: dict[str, Any], sampling: Sampling, seed: int, max_tokens: int, stream: bool
    ) -> None:
        self.encoded = encoded
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.stream = stream
        self.token_ids: list[int] = []
        self.finish_reason: Any = None
        self.cancelled = threading.Event()
        self.chunks: asyncio.Queue[Chunk | BaseException] = asyncio.Queue()
        self.generator = torch.Generator().manual_seed(seed)
        self._loop = asyncio.get_running_loop()
        self._sent = 0

    def send(self, item: Chunk | BaseException) -> None:
        """Hand something to the waiting coroutine; called from the worker thread."""
        # The loop is closed when the program is on its way out.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, item)

    def take(self, token_id: int, end_ids: set[int], tokenizer: Any) -> bool:
        """Take the next token of the row and tell whether the turn is over."""
        if self.finish_reason is not None:
            return True
        self.token_ids.append(token_id)
        tail = self.token_ids[-_STOP_WINDOW:]
        if token_id in end_ids or self.cancelled.is_set():
            self.finish_reason = "stop"
        elif any(s in tokenizer.decode(tail, skip_special_tokens=False) for s in STOP_STRINGS):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_tokens:
            self.finish_reason = "length"
        if self.stream or self.finish_reason is not None:
            self.send(Chunk(self.token_ids[self._sent :], self.finish_reason))
            self._sent = len(self.token_ids)
        return self.finish_reason is not None


class _Draw(LogitsProcessor):  # type: ignore[misc]  # transformers has no type information
    """Leaves one token of each row: drawn from the row's own generator, or the most likely one.

    It is the last processor, so the hook before it has its say about every draw.
    """

    def __init__(self, jobs: list[_Job]) -> None:
        self._jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask scores of shape (batch, vocabulary)."""
        for row, job in enumerate(self._jobs):
            sampling = job.sampling
            if sampling.temperature == 0.0 or job.finish_reason is not None:
                continue
            own = scores[row : row + 1].float()
            own = TemperatureLogitsWarper(sampling.temperature)(input_ids, own)
            if sampling.top_k:
                own = TopKLogitsWarper(sampling.top_k)(input_ids, own)
            if sampling.top_p < 1.0:
                own = TopPLogitsWarper(sampling.top_p)(input_ids, own)
            # The arg-max of log-probabilities plus Gumbel noise is a draw from the distribution.
            uniform = torch.rand(own.shape, generator=job.generator).clamp_min_(1e-20)
            noise = -torch.log(-torch.log(uniform))
            best = (torch.log_softmax(own, -1) + noise.to(own.device)).argmax(-1)
            scores[row] = float("-inf")
            scores[row, best] = 0.0
        return scores


class _Penalty(LogitsProcessor):  # type: ignore[misc]  # transformers has no type information
    """Applies each row's repetition penalty."""

    def __init__(self, jobs: list[_Job]) -> None:
        self._jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change scores of shape (batch, vocabulary)."""
        for row, job in enumerate(self._jobs):
            penalty = job.sampling.repetition_penalty
            if penalty != 1.0:
                processor = RepetitionPenaltyLogitsProcessor(penalty)
                scores[row : row + 1] = processor(input_ids[row : row + 1], scores[row : row + 1])
        return scores


class _Watch(StoppingCriteria):  # type: ignore[misc]  # transformers has no type information
    """Hands each row its tokens and says which rows are done."""

    def __init__(self, jobs: list[_Job], end_ids: set[int], tokenizer: Any) -> None:
        self._jobs = jobs
        self._end_ids = end_ids
        self._tokenizer = tokenizer

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Return which rows are done, shape (batch,)."""
        latest = input_ids[:, -1].tolist()
        done = [
            job.take(token_id, self._end_ids, self._tokenizer)
            for job, token_id in zip(self._jobs, latest, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)


class _Conversation(ConversationState):
    """A trajectory of this engine."""

    def __init__(self, engine: TransformersEngine, task: Task) -> None:
        super().__init__(engine.template, task)
        self._engine = engine
        self._messages = task.messages

    async def sample(
        self, sampling: Sampling, *, seed: int, max_tokens: int | None, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        """Sample the next turn; see :class:`swift_thyme.inference.engine.Conversation`."""
        encoded = await asyncio.to_thread(self._encode)
        limit = self._engine.max_total_tokens - self.length if max_tokens is None else max_tokens
        job = _Job(encoded, sampling, seed, limit, stream)
        self._engine.submit(job)
        try:
            while True:
                item = await job.chunks.get()
                if isinstance(item, BaseException):
                    raise EngineError(f"transformers failed to generate: {item}") from item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            job.cancelled.set()

    def _encode(self) -> dict[str, Any]:
        return encode_turn(self._engine.template, self._messages, self.turn_ids, self.images)


class TransformersEngine:
    """Generates with a transformers model in this process.

    Args:
        model: The model.
        template: Its ms-swift template.
        model_name: Name for reports.
        max_images: Most images of one trajectory.
        max_total_tokens: Longest prompt and turn together, in tokens.
        max_batch: Most turns that are generated together.
    """

    def __init__(
        self,
        model: Any,
        template: Any,
        *,
        model_name: str,
        max_images: int,
        max_total_tokens: int,
        max_batch: int,
    ) -> None:
        self.template = template
        self.model_name = model_name
        self.max_images = max_images
        self.max_total_tokens = max_total_tokens
        self._model = model
        self._max_batch = max_batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        end_ids = model.generation_config.eos_token_id
        end_ids = set(end_ids) if isinstance(end_ids, list) else {end_ids}
        end_ids.update({template.tokenizer.eos_token_id, template.tokenizer.pad_token_id})
        self._end_ids: set[int] = end_ids - {None}
        self._thread = threading.Thread(target=self._work, name="thyme-generate", daemon=True)
        self._thread.start()

    async def begin(self, task: Task) -> _Conversation:
        """Encode a prompt and begin its conversation."""
        return await asyncio.to_thread(_Conversation, self, task)

    async def close(self) -> None:
        """End the worker; turns that are still asked for end first. May be called twice."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, _JOIN_S)

    def submit(self, job: _Job) -> None:
        """Queue a turn."""
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            with contextlib.suppress(queue.Empty):
                while len(batch) < self._max_batch:
                    other = self._jobs.get_nowait()
                    if other is None:
                        self._jobs.put(None)
                        break
                    batch.append(other)
            batch = [job for job in batch if not job.cancelled.is_set()]
            try:
                if batch:
                    self._generate(batch)
            except Exception as error:  # noqa: BLE001 - whoever waits for a turn gets it
                for job in batch:
                    job.send(error)

    @torch.inference_mode()
    def _generate(self, jobs: list[_Job]) -> None:
        tokenizer = self.template.tokenizer
        config = GenerationConfig(
            max_new_tokens=max(job.max_tokens for job in jobs),
            do_sample=False,
            eos_token_id=sorted(self._end_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
        generate(
            self._model,
            self.template,
            [job.encoded for job in jobs],
            config,
            first=_Penalty(jobs),
            last=_Draw(jobs),
            stop=_Watch(jobs, self._end_ids, tokenizer),
        )
        for job in jobs:
            if job.finish_reason is None:
                job.send(Chunk(job.token_ids[job._sent :], "length"))
