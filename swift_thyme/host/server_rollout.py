"""The loop over the turns of a trajectory, for ``swift rollout`` and continuous rollouts.

ms-swift has two loops over a scheduler's hooks. That of colocate mode (``rollout/agent_loop.py``)
waits for all trajectories after each turn. That of server mode (``MultiTurnScheduler.run``) has no
such barrier, and drops the ids, the mask and the log-probabilities that ``on_turn_end`` returns for
the last turn. This one takes the place of the second, and of the first where
:mod:`swift_thyme.host.continuous_rollout` can: what the hooks return counts, as in ms-swift's
colocate mode, and nothing of a trajectory stays behind, however it ends.

It knows neither the protocol nor the sandbox; those are the scheduler's.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from swift.rollout.multi_turn import MultiTurnScheduler  # noqa: TID253 - the host's base class

from swift_thyme.host.server_watch import ENGINE_DIED

__all__ = ["FailedBatch", "ServerRollout"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Completion:
    """What a trajectory adds to its prompt: one assistant message, over all turns."""

    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    """One entry per id."""
    logprobs: list[float] = field(default_factory=list)
    """One entry per id that is trained on."""

    def trained_logprobs(self) -> list[list[float]]:
        """Return the log-probabilities, or none where not every trained id has one."""
        complete = self.logprobs and len(self.logprobs) == sum(self.loss_mask)
        return [self.logprobs] if complete else []


class FailedBatch:
    """Takes the place of a batch's outputs where a trajectory met an error of ours.

    ms-swift's engine process logs an exception and sends None, of which the trainer sees "500,
    Internal Server Error". This travels to the process that answers the trainer instead, which puts
    the reason into the answer.

    Args:
        reason: One line that says what failed.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __iter__(self) -> NoReturn:
        """Refuse to be read as outputs.

        Raises:
            HTTPException: Always; the trainer's client shows the reason and stops.
        """
        from fastapi import HTTPException

        raise HTTPException(500, self.reason)


def _reason(error: Exception) -> str:
    """Return what a trainer is told of an error, in one line."""
    if any(kind.__name__ == "EngineDeadError" for kind in type(error).__mro__):
        return ENGINE_DIED
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


class ServerRollout(MultiTurnScheduler):  # type: ignore[misc]  # ms-swift has no type information
    """A scheduler whose hooks do the same in server mode as in colocate mode.

    ``on_turn_end`` has to return ``done``. It may return ``response_token_ids``,
    ``response_loss_mask`` and ``rollout_logprobs`` with it, which count for the last turn.
    """

    async def start(self) -> None:
        """Get ready for a batch of trajectories; called once for each."""

    async def leave(self, name: str) -> None:
        """Forget a trajectory and release what it holds; called once, however it ended.

        Args:
            name: The ``uuid`` of its request.
        """

    async def async_infer(
        self,
        infer_requests: Sequence[Any],
        request_config: Any,
        *,
        use_tqdm: bool | None = None,
        **kwargs: Any,
    ) -> list[Any] | FailedBatch:
        """Run a batch of trajectories (called by the engine process of ``swift rollout``).

        Args:
            infer_requests: ``RolloutInferRequest`` objects, or dicts of their fields.
            request_config: How to sample; ``n`` is 1.
            use_tqdm: Not used.
            **kwargs: Handed to the engine.

        Returns:
            One ``RolloutOutput`` per request, in order. Where one trajectory fails, the others are
            cancelled, as a job in colocate mode would end, and the failure is returned.
        """
        from swift.infer_engine import protocol

        requests = [
            protocol.RolloutInferRequest(**request) if isinstance(request, Mapping) else request
            for request in infer_requests
        ]
        for request in requests:
            # Two trajectories without a name would be taken for one.
            request.uuid = request.uuid or uuid.uuid4().hex
        try:
            return await self.run_all(requests, request_config, **kwargs)
        except Exception as error:
            # Whatever it is, the trainer has to hear of it.
            logger.exception("a batch of %d trajectories ends with an error", len(requests))
            return FailedBatch(_reason(error))

    async def run_all(
        self, requests: Sequence[Any], request_config: Any, **kwargs: Any
    ) -> list[Any]:
        """Sample trajectories to their ends, each at its own pace.

        Args:
            requests: The prompts, each with a ``uuid`` of its own.
            request_config: How to sample a turn.
            **kwargs: Handed to :meth:`run`.

        Returns:
            One ``RolloutOutput`` per request, in order. Where one trajectory fails, the others are
            cancelled and have left before its error is raised.
        """
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self.start()
            tasks += [
                asyncio.ensure_future(self.run(request, request_config, **kwargs))
                for request in requests
            ]
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            # Their sandbox sessions are closed before the next batch opens its own.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(
        self, infer_request: Any, request_config: Any, *, engine: Any = None, **kwargs: Any
    ) -> Any:
        """Sample one trajectory to its end.

        Args:
            infer_request: The prompt; messages and images of the trajectory are added to it.
            request_config: How to sample a turn.
            engine: Samples turns (``infer_async``); None takes the scheduler's own.
            **kwargs: Handed to the engine.

        Returns:
            A ``RolloutOutput`` with the same ids, mask, log-probabilities, messages and
            ``rollout_infos`` as colocate mode gives the trajectory.
        """
        try:
            # The prompt ends where the model is to begin.
            infer_request.remove_response(infer_request.messages)
            await self.on_trajectory_start([infer_request])
            engine = engine or self.infer_engine
            return await self._sample(infer_request, request_config, engine, kwargs)
        finally:
            await self.leave(infer_request.uuid)

    async def _sample(
        self, request: Any, config: Any, engine: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        from swift.infer_engine import protocol

        completion = _Completion()
        infos: dict[str, Any] = {}
        turn = 0
        while True:
            turn += 1
            response = await engine.infer_async(request, config, **kwargs)
            choice = response.choices[0]
            continues = self.append_assistant_completion(request, choice.message.content)
            ended = await self.on_turn_end(request, choice, turn)
            infos.update(ended.get("rollout_infos") or {})
            done = ended["done"]
            taken = ended if done else self.step(request, choice, turn)
            self._add_turn(completion, request, choice, taken, continues)
            if done:
                return protocol.RolloutOutput(
                    response=response,
                    messages=request.messages,
                    response_token_ids=[completion.token_ids] if completion.token_ids else [],
                    response_loss_mask=[completion.loss_mask] if completion.token_ids else [],
                    rollout_infos={**infos, "num_turns": turn},
                    rollout_logprobs=completion.trained_logprobs(),
                )
            self._make_next_prompt(request, completion)

    def _add_turn(
        self,
        completion: _Completion,
        request: Any,
        choice: Any,
        taken: Mapping[str, Any],
        continues: bool,
    ) -> None:
        """Add a turn: what a hook returned of it, else what the engine sampled."""
        token_ids, loss_mask = self.get_response_token_data(
            request,
            choice,
            is_continuation=continues,
            response_token_ids=taken.get("response_token_ids"),
            response_loss_mask=taken.get("response_loss_mask"),
        )
        completion.token_ids += token_ids
        completion.loss_mask += loss_mask
        if "rollout_logprobs" in taken:
            completion.logprobs += taken["rollout_logprobs"]
        else:
            completion.logprobs += self.prepare_response_continuation(choice)[2]

    def _make_next_prompt(self, request: Any, completion: _Completion) -> None:
        """Let the next turn continue exactly these ids; a response prefix is among them."""
        self.set_assistant_message_token_ids(request, completion.token_ids)
