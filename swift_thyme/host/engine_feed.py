"""Feeds vLLM's engine in the trainer's process while it runs: a turn is added when it is ready.

ms-swift's own call (``GRPOVllmEngine.infer``) takes a batch and comes back when the last of it is
done. Here one thread, that of the trainer, steps the engine, and coroutines of another thread ask
for turns. What is asked of the engine for a turn is what ms-swift asks.

It knows neither trajectories nor code; see :mod:`swift_thyme.host.continuous_rollout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from swift_thyme.core.summary import EndReason
from swift_thyme.host.step_times import StepTimes

__all__ = ["EngineFeed"]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn that a coroutine waits for."""

    name: str
    """The ``uuid`` of its trajectory."""
    inputs: dict[str, Any]
    """The encoded prompt."""
    config: Any
    answer: asyncio.Future[Any]
    """vLLM's ``RequestOutput``, in the loop of the coroutine."""


class EngineFeed:
    """Lets coroutines of one thread use an engine that another thread steps.

    The first turns of the trajectories are added in the order of their requests, however long
    encoding takes: ms-swift derives limits from the first one, and so do later runs of the same
    seed. Every other turn is added when it comes.

    Args:
        engine: ms-swift's ``GRPOVllmEngine``, idle and awake.
        names: The ``uuid`` of each trajectory, in the order of their first turns.
        deadline_s: Seconds from now after which a turn ends with its next token, and has the finish
            reason ``deadline``. So a turn is never empty.
        times: Where waiting for turns is charged, in the thread of the engine.
    """

    def __init__(
        self,
        engine: Any,
        names: Sequence[str],
        *,
        deadline_s: float = math.inf,
        times: StepTimes,
    ) -> None:
        self._engine = engine
        self._times = times
        self._end = time.monotonic() + deadline_s
        self._ends_early = math.isfinite(deadline_s)
        self._places = {name: place for place, name in enumerate(names)}
        self._next_place = 0
        self._early: dict[int, _Turn] = {}
        self._inbox: SimpleQueue[_Turn | None] = SimpleQueue()
        self._running: dict[str, _Turn] = {}
        self._adapter = engine._get_grpo_lora_request()
        engine.template.set_mode("vllm")

    async def infer_async(self, request: Any, config: Any) -> Any:
        """Sample one turn; called in any thread but the engine's.

        Args:
            request: The prompt, a ``RolloutInferRequest`` among the trajectories.
            config: How to sample.

        Returns:
            A ``ChatCompletionResponse``, as ms-swift's engine gives it.
        """
        engine = self._engine
        inputs = await asyncio.to_thread(
            engine.template.encode, request, return_template_inputs=True
        )
        answer = asyncio.get_running_loop().create_future()
        self._inbox.put(_Turn(request.uuid, inputs, config, answer))
        output = await answer
        return engine._create_chat_completion_response(output, inputs, config, output.request_id)

    def drive(self, until: Future[Any]) -> None:
        """Step the engine, in the calling thread, until something is done.

        Whatever the engine still samples at the end, or at an error, is taken back.

        Args:
            until: Done when nobody will ask for a turn any more.
        """
        until.add_done_callback(lambda _: self._inbox.put(None))
        engine = self._engine.engine
        try:
            while not until.done():
                self._take(wait=not self._running)
                if not self._running:
                    continue
                outputs, is_late = engine.step(), time.monotonic() > self._end
                for output in outputs:
                    if is_late and not output.finished:
                        engine.abort_request([output.request_id])
                        output.outputs[0].finish_reason = EndReason.DEADLINE.value
                    elif not output.finished:
                        continue
                    turn = self._running.pop(output.request_id)
                    loop = turn.answer.get_loop()
                    loop.call_soon_threadsafe(_settle, turn.answer, output)
        finally:
            if self._running:
                engine.abort_request(list(self._running))

    def _take(self, *, wait: bool) -> None:
        """Add the turns that are there; wait for the next news where the engine has no work."""
        while True:
            try:
                with self._times.phase("sandbox") if wait else contextlib.nullcontext():
                    turn = self._inbox.get(block=wait)
            except Empty:
                return
            wait = False
            if turn is None:
                continue
            place = self._places.pop(turn.name, None)
            if place is None:
                self._add(turn)
                continue
            self._early[place] = turn
            while self._next_place in self._early:
                self._add(self._early.pop(self._next_place))
                self._next_place += 1

    def _add(self, turn: _Turn) -> None:
        engine = self._engine
        name = str(engine._request_count)
        engine._request_count += 1
        config = copy.deepcopy(turn.config)
        engine.set_default_max_tokens(config, turn.inputs)
        params = engine._prepare_generation_config(config)
        if not self._ends_early:
            # Nobody reads a turn before its end; vLLM would make all of it anew at each step.
            params.output_kind = type(params.output_kind).FINAL_ONLY
        engine._add_stop_words(params, config)
        engine._add_request(turn.inputs, params, name, adapter_request=self._adapter)
        self._running[name] = turn


def _settle(answer: asyncio.Future[Any], output: Any) -> None:
    if not answer.done():
        answer.set_result(output)
