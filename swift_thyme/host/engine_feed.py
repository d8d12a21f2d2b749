"""Feeds vLLM's engine in the trainer's process while it runs: a turn is added when it is ready.

ms-swift's own call (``GRPOVllmEngine.infer``) takes a batch and comes back when the last of it is
done. Here one thread, that of the trainer, steps the engine, and coroutines of another thread ask
for turns. What is asked of the engine for a turn is what ms-swift asks
(:mod:`swift_thyme.host.turn_preparation`).

It knows neither trajectories nor code; see :mod:`swift_thyme.host.continuous_rollout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty
from typing import Any

from swift_thyme.core.summary import EndReason
from swift_thyme.host.step_times import StepTimes
from swift_thyme.host.turn_preparation import Turn, TurnPreparation

__all__ = ["RUNNING_PER_STEP", "EngineFeed"]

RUNNING_PER_STEP = 2
"""Running turns for each engine step that a ready turn waits, at most, for others, on a GPU.

There a step that takes in prompts costs all running turns much more than another one, and prompts
that come together cost less than each on its own (docs/rollout.md, what waiting costs). The more
turns run, the more others come in the meantime."""


class EngineFeed:
    """Lets coroutines of one thread use an engine that another thread steps.

    Args:
        engine: ms-swift's ``GRPOVllmEngine``, idle and awake.
        names: The ``uuid`` of each trajectory, in the order of their first turns.
        deadline_s: Seconds from now after which a turn ends with its next token, and has the finish
            reason ``deadline``. So a turn is never empty.
        running_per_step: A ready turn waits for others until so many steps after the last one was
            added: the number of running turns by this one. 0 adds each turn at once.
        times: Where waiting for turns is charged, in the thread of the engine: to "encoding" before
            the first one, to "sandbox" later.
    """

    def __init__(
        self,
        engine: Any,
        names: Sequence[str],
        *,
        deadline_s: float = math.inf,
        running_per_step: int = 0,
        times: StepTimes,
    ) -> None:
        self._engine = engine
        self._running_per_step = running_per_step
        self._times = times
        self._end = time.monotonic() + deadline_s
        self._preparation = TurnPreparation(engine, names, ends_early=math.isfinite(deadline_s))
        self._running: dict[str, Turn] = {}
        self._has_begun = False
        self._steps_since_prompts = 0
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
        self._preparation.put(Turn(request.uuid, inputs, config, answer))
        output = await answer
        return engine._create_chat_completion_response(output, inputs, config, output.request_id)

    def drive(self, until: Future[Any]) -> None:
        """Step the engine, in the calling thread, until something is done.

        Whatever the engine still samples at the end, or at an error, is taken back.

        Args:
            until: Done when nobody will ask for a turn any more.
        """
        until.add_done_callback(lambda _: self._preparation.ready.put(None))
        engine = self._engine.engine
        try:
            while not until.done():
                if self._steps_since_prompts >= self._steps_to_wait():
                    self._take(wait=not self._running)
                if not self._running:
                    continue
                self._steps_since_prompts += 1
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
            self._preparation.stop()
            if self._running:
                engine.abort_request(list(self._running))

    def _steps_to_wait(self) -> int:
        return len(self._running) // self._running_per_step if self._running_per_step else 0

    def _take(self, *, wait: bool) -> None:
        """Add the turns that are ready; wait for news where the engine has no work."""
        # Before the first turn is there, no code can run.
        phase = "sandbox" if self._has_begun else "encoding"
        while True:
            try:
                with self._times.phase(phase) if wait else contextlib.nullcontext():
                    one = self._preparation.ready.get(block=wait)
            except Empty:
                return
            wait = False
            for ready in one.result() if one is not None else ():
                self._has_begun = True
                self._steps_since_prompts = 0
                ready.add()
                self._running[ready.name] = ready.turn


def _settle(answer: asyncio.Future[Any], output: Any) -> None:
    if not answer.done():
        answer.set_result(output)
