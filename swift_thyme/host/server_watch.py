"""Ends a trainer whose rollout server has lost its engine.

ms-swift tells the server that weights come, and sends them whether or not an engine is there to
take them: with a dead engine the trainer would wait for ever. So the server is asked first.
"""

from __future__ import annotations

import functools
from typing import Any

from swift_thyme.core.errors import EngineError

__all__ = ["ENGINE_DIED", "watch_server"]

ENGINE_DIED = (
    "the engine of swift rollout has died; its log says why. Start swift rollout again, then the "
    "training (with --resume_from_checkpoint it goes on from its last checkpoint)"
)


def watch_server(trainer: Any) -> None:
    """Let a trainer ask for the server's engine before it sends weights.

    Args:
        trainer: ms-swift's GRPO trainer, in server mode.
    """
    move = trainer._move_model_to_vllm

    @functools.wraps(move)
    def move_where_somebody_is(*args: Any, **kwargs: Any) -> Any:
        if trainer.accelerator.is_main_process:
            _make_sure(trainer.vllm_client)
        return move(*args, **kwargs)

    trainer._move_model_to_vllm = move_where_somebody_is


def _make_sure(client: Any) -> None:
    try:
        names = client.get_model_state_keys()
    except Exception as error:
        # requests and ms-swift's client have no error in common.
        raise EngineError(f"swift rollout does not answer ({type(error).__name__})") from error
    if not names:
        raise EngineError(ENGINE_DIED)
