"""Rollouts of colocate mode without barriers: a trajectory whose code is done goes on at once.

ms-swift's loop (``rollout/agent_loop.py``) samples a turn of all trajectories, runs all their code,
and begins the next turn when the last trajectory of the last process is ready. Here each trajectory
is a coroutine, and the loop over its turns is that of ``swift rollout``
(:mod:`swift_thyme.host.server_rollout`). The coroutines live in a thread with an event loop. The
thread of the trainer steps the engine (:mod:`swift_thyme.host.engine_feed`). Nothing is gathered
between processes before the end of the rollout.

``THYME_ROLLOUT=turns`` leaves ms-swift's loop in place. So do engines that cannot be fed while they
run: that of transformers, and vLLM over several processes, which must all see the same requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

from swift_thyme.core.environment import Reader
from swift_thyme.host.cpu_vllm import is_cpu_build
from swift_thyme.host.engine_feed import RUNNING_PER_STEP, EngineFeed
from swift_thyme.host.server_rollout import ServerRollout
from swift_thyme.host.step_times import StepTimes

__all__ = ["roll_out", "use_continuous_rollouts"]

TURNS = "turns"


def use_continuous_rollouts(trainer: Any, times: StepTimes) -> None:
    """Let a trainer sample its trajectories without barriers, where that is possible.

    Args:
        trainer: ms-swift's GRPO trainer, ready to train.
        times: Where waiting for the sandbox is charged.

    Raises:
        SettingsError: ``THYME_ROLLOUT`` cannot be used.
    """
    if Reader().text("THYME_ROLLOUT") == TURNS:
        return
    if not isinstance(getattr(trainer, "multi_turn_scheduler", None), ServerRollout):
        return
    if not trainer.use_fast_infer or trainer.vllm_mode != "colocate":
        return
    from swift.utils import get_logger

    if trainer.vllm_tensor_parallel_size > 1:
        get_logger().info(
            "trajectories are sampled turn by turn (as with THYME_ROLLOUT=turns): "
            "--vllm_tensor_parallel_size is above 1, and its processes must sample the same turns"
        )
        return
    get_logger().info("each trajectory goes on when its code is done (THYME_ROLLOUT=continuous)")
    trainer._infer_single_or_multi_turn = functools.partial(
        _sample, trainer, times, Reader().number("THYME_ROLLOUT_DEADLINE_S")
    )


def _sample(
    trainer: Any,
    times: StepTimes,
    deadline_s: float,
    samples: list[Any],
    request_config: Any,
    is_global_inputs: bool = False,
) -> list[Any]:
    """Take the place of the trainer's method, with its parameters after the first three."""
    from swift.rlhf_trainers.utils import profiling_context

    requests = trainer.samples2requests(samples)
    for request, sample in zip(requests, samples, strict=True):
        sample.messages = request.messages
    config = trainer._get_request_config()
    with profiling_context(trainer, "generate"), trainer._disable_sp_context():
        outputs = roll_out(
            trainer.multi_turn_scheduler,
            trainer.engine,
            requests,
            config,
            deadline_s=deadline_s,
            times=times,
        )
    sampled: list[Any] = trainer._postprocess_rollout_outputs(samples, outputs)
    return sampled


def roll_out(
    scheduler: ServerRollout,
    engine: Any,
    requests: Sequence[Any],
    config: Any,
    *,
    deadline_s: float = math.inf,
    running_per_step: int | None = None,
    times: StepTimes | None = None,
) -> list[Any]:
    """Sample trajectories to their ends, and step the engine in the calling thread meanwhile.

    Args:
        scheduler: Whose hooks decide what follows a turn.
        engine: ms-swift's ``GRPOVllmEngine``, idle and awake.
        requests: The prompts; messages and images of the trajectories are added to them.
        config: How to sample a turn.
        deadline_s: Seconds after which trajectories end in the middle of their turns, with the
            reason ``deadline``. Code that runs then has its own limit.
        running_per_step: How long ready turns wait for others, see :class:`EngineFeed`; None for
            what suits the machine. Without a GPU a prompt costs by its length, however it comes.
        times: Where waiting for the sandbox is charged; None charges it nowhere.

    Returns:
        One ``RolloutOutput`` per request, in order. Where a trajectory meets an error, all others
        are cancelled, nothing of them stays in the engine, scheduler or sandbox, and the error is
        raised.
    """
    names = [request.uuid for request in requests]
    if running_per_step is None:
        running_per_step = 0 if is_cpu_build() else RUNNING_PER_STEP
    feed = EngineFeed(
        engine,
        names,
        deadline_s=deadline_s,
        running_per_step=running_per_step,
        times=times or StepTimes(),
    )
    work = _Background(scheduler.run_all(requests, config, engine=feed))
    try:
        feed.drive(work.outcome)
        outputs: list[Any] = work.outcome.result()
        return outputs
    finally:
        work.stop()


class _Background:
    """A coroutine in a thread with an event loop of its own.

    Attributes:
        outcome: Its result.
    """

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.outcome: Future[Any] = Future()
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._thread = threading.Thread(target=self._run, name="swift-thyme-rollout", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.wait([self._task]))
        error = asyncio.CancelledError() if self._task.cancelled() else self._task.exception()
        if error is None:
            self.outcome.set_result(self._task.result())
        else:
            self.outcome.set_exception(error)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def stop(self) -> None:
        """Cancel what is not done, and wait until it has cleaned up."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: all is done
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
