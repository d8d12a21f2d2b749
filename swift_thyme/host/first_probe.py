"""What is tried before the first step of a job: the sandbox, the engine and the judge.

Each would else fail after minutes of loading and sampling, or worse, let the job run to its end
without a reward. The sandbox's try is its warm-up too, and the engine then gets one of its own
(:mod:`swift_thyme.host.engine_warmup`). With ``swift rollout`` sandbox and engine are the server's,
which tries them itself (:mod:`swift_thyme.host.scheduler`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from swift.utils import get_logger  # noqa: TID253 - the log of the job is ms-swift's

from swift_thyme.host.engine_probe import probe_engine, probe_template
from swift_thyme.host.engine_warmup import warm_up_engine
from swift_thyme.host.reward_functions import judge_of
from swift_thyme.host.scheduler import O3Scheduler
from swift_thyme.rewards.judge_check import check_judge

__all__ = ["probe_job"]


def probe_job(trainer: Any) -> None:
    """Try everything that the steps of this process will need.

    Args:
        trainer: ms-swift's GRPO trainer, ready to train.

    Raises:
        SandboxDeadError: No code runs here.
        EngineError: The engine cannot sample, or samples without the hook.
        JudgeError: A judge is configured and does not answer.
    """
    tried: list[str] = []
    scheduler = getattr(trainer, "multi_turn_scheduler", None)
    if isinstance(scheduler, O3Scheduler) and trainer.vllm_mode != "server":
        _timed("sandbox", tried, lambda: _run(scheduler.start()))
        _timed("engine", tried, lambda: _try_engine(trainer))
        if trainer.args.use_vllm:
            _timed(
                "warm-up",
                tried,
                lambda: warm_up_engine(trainer.engine, trainer._get_request_config()),
            )
    judge = judge_of(getattr(trainer, "reward_funcs", ()))
    if judge is not None and trainer.accelerator.is_main_process:
        _timed("judge", tried, lambda: _run(check_judge(judge.settings)))
    if tried:
        get_logger().info(f"before the first step: {', '.join(tried)}")


def _try_engine(trainer: Any) -> str:
    if trainer.args.use_vllm:
        return probe_engine(trainer.engine.engine, trainer.template.tokenizer)
    probe_template(trainer.engine.template)
    return "has the hook"


def _run(attempt: Coroutine[Any, Any, None]) -> str:
    asyncio.run(attempt)
    return "works"


def _timed(name: str, tried: list[str], attempt: Callable[[], str]) -> None:
    started = time.monotonic()
    found = attempt()
    tried.append(f"{name} {found} ({time.monotonic() - started:.1f} s)")
