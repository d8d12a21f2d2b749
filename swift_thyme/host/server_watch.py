"""Ends a trainer whose rollout server has lost its engine.

ms-swift tells the server that weights come, and sends them whether or not an engine is there to
take them: with a dead engine the trainer would wait in NCCL for ever. So the server is asked before
weights are sent, when sending fails, and from time to time while it lasts.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from typing import Any

from swift_thyme.core.errors import EngineError

__all__ = ["ENGINE_DIED", "watch_server"]

logger = logging.getLogger(__name__)

ENGINE_DIED = (
    "the engine of swift rollout has died or hangs; its log says why. Start swift rollout again, "
    "then the training (with --resume_from_checkpoint it goes on from its last checkpoint)"
)

_PATIENCE_S = 30.0
"""Seconds of sending after which the server is asked, and between two questions."""
_ANSWER_S = 60.0
"""Longest wait for an answer, which takes milliseconds; or one bucket of weights, where it waits
for that."""


def watch_server(trainer: Any) -> None:
    """Let a trainer know of the server's engine whenever it sends weights.

    Args:
        trainer: ms-swift's GRPO trainer, in server mode.
    """
    move = trainer._move_model_to_vllm

    @functools.wraps(move)
    def move_where_somebody_is(*args: Any, **kwargs: Any) -> Any:
        if not trainer.accelerator.is_main_process:
            return move(*args, **kwargs)
        client = trainer.vllm_client
        _make_sure(client)
        done = threading.Event()
        threading.Thread(target=_watch, args=(client, done), daemon=True).start()
        try:
            return move(*args, **kwargs)
        except Exception:
            # Where the engine is gone, that is the reason, and not what became of the weights.
            _make_sure(client)
            raise
        finally:
            done.set()

    trainer._move_model_to_vllm = move_where_somebody_is


def _watch(client: Any, done: threading.Event) -> None:
    while not done.wait(_PATIENCE_S):
        try:
            _make_sure(client)
        except EngineError as error:
            if not done.is_set():
                logger.error("%s: %s", type(error).__name__, error)
                # No exception reaches a thread that waits in NCCL.
                os._exit(1)


def _make_sure(client: Any) -> None:
    """Ask for the names of the engine's weights.

    Raises:
        EngineError: There is no server or no engine, or it does not answer in time: an engine that
            dies in the middle of a call leaves the server waiting.
    """
    names: list[str] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            names.extend(client.get_model_state_keys())
        except Exception as error:  # noqa: BLE001 - requests and the client share no base class
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    if failures:
        kind = type(failures[0]).__name__
        raise EngineError(f"swift rollout does not answer ({kind})") from failures[0]
    if not names:
        raise EngineError(ENGINE_DIED)
