"""Makes turns ready for vLLM in a thread of its own, while the engine samples others.

vLLM processes the pictures of a prompt when a request is added. In the trainer's process that would
be the thread that steps the engine, and all running trajectories would wait for it. Here only what
is left of adding happens there.

One thread does it for all turns. vLLM keeps processed pictures in two caches, before and behind the
engine, which stay equal as long as requests are added in the order in which they were processed.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

__all__ = ["ReadyTurn", "Turn", "TurnPreparation", "ready_request"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that a coroutine waits for."""

    trajectory: str
    """The ``uuid`` of its trajectory."""
    inputs: dict[str, Any]
    """The encoded prompt."""
    config: Any
    answer: asyncio.Future[Any]
    """vLLM's ``RequestOutput``, in the loop of the coroutine."""


@dataclass(frozen=True, slots=True)
class ReadyTurn:
    """A turn that only has to be added."""

    name: str
    """vLLM's name of the request."""
    turn: Turn
    add: Callable[[], object]
    """Adds it; called in the thread that steps the engine."""


class TurnPreparation:
    """A thread that makes turns ready.

    The first turns of the trajectories come out in the order of their requests, however long
    encoding takes: ms-swift derives limits from the first one, and so do later runs of the same
    seed. Every other turn comes out when it came.

    Args:
        engine: ms-swift's ``GRPOVllmEngine``.
        names: The ``uuid`` of each trajectory, in the order of their first turns.
        ends_early: Whether a turn is looked at before its end.

    Attributes:
        ready: Lists of what is ready, as futures that may hold an error, or None where somebody
            woke the reader up.
    """

    def __init__(self, engine: Any, names: Sequence[str], *, ends_early: bool) -> None:
        self.ready: SimpleQueue[Future[list[ReadyTurn]] | None] = SimpleQueue()
        self._engine = engine
        self._ends_early = ends_early
        self._places = {name: place for place, name in enumerate(names)}
        self._next_place = 0
        self._early: dict[int, Turn] = {}
        self._adapter = engine._get_grpo_lora_request()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swift-thyme-prepare")

    def put(self, turn: Turn) -> None:
        """Ask for a turn; called in any thread.

        Raises:
            RuntimeError: After :meth:`stop`.
        """
        self._thread.submit(self._make_ready, turn).add_done_callback(self.ready.put)

    def stop(self) -> None:
        """End the thread; turns that came out and were not added are forgotten."""
        self._thread.shutdown(cancel_futures=True)
        forgotten = False
        while not self.ready.empty():
            one = self.ready.get()
            forgotten |= one is not None and not one.cancelled()
        if forgotten:
            # Their pictures are in the cache before the engine, and not in the one behind it.
            self._engine.engine.reset_mm_cache()

    def _make_ready(self, turn: Turn) -> list[ReadyTurn]:
        return [self._prepare(one) for one in self._in_order(turn)]

    def _in_order(self, turn: Turn) -> list[Turn]:
        """Return what can be made ready now that this turn is there."""
        place = self._places.pop(turn.trajectory, None)
        if place is None:
            return [turn]
        self._early[place] = turn
        turns = []
        while self._next_place in self._early:
            turns.append(self._early.pop(self._next_place))
            self._next_place += 1
        return turns

    def _prepare(self, turn: Turn) -> ReadyTurn:
        name, add = ready_request(
            self._engine, turn.inputs, turn.config, self._adapter, ends_early=self._ends_early
        )
        return ReadyTurn(name, turn, add)


def ready_request(
    engine: Any, inputs: dict[str, Any], config: Any, adapter: Any, *, ends_early: bool = False
) -> tuple[str, Callable[[], object]]:
    """Process the pictures of a prompt, so that its request only has to be added.

    Args:
        engine: ms-swift's ``GRPOVllmEngine``.
        inputs: The encoded prompt.
        config: How to sample.
        adapter: vLLM's ``LoRARequest``, or None.
        ends_early: Whether a request is looked at before its end.

    Returns:
        vLLM's name of the request, and the call that adds it.
    """
    name = str(engine._request_count)
    engine._request_count += 1
    config = copy.deepcopy(config)
    engine.set_default_max_tokens(config, inputs)
    params = engine._prepare_generation_config(config)
    if not ends_early:
        # Nobody reads a turn before its end; vLLM would make all of it anew at each step.
        params.output_kind = type(params.output_kind).FINAL_ONLY
    engine._add_stop_words(params, config)
    asked = _Asked(engine)
    type(engine)._add_request(asked, inputs, params, name, adapter_request=adapter)
    prompt = engine.engine.input_processor.input_preprocessor.preprocess(asked.prompt)
    add = functools.partial(engine.engine.add_request, name, prompt, asked.params, **asked.options)
    return name, add


class _Asked:
    """An engine of ms-swift that keeps what it would ask of vLLM's engine."""

    prompt: Any
    params: Any
    options: dict[str, Any]

    def __init__(self, engine: Any) -> None:
        self._theirs = engine
        self.engine = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def add_request(self, name: str, prompt: Any, params: Any, **options: Any) -> None:
        self.prompt, self.params, self.options = prompt, params, options
