"""Where the time of a training step goes, as metrics ``thyme/time/...`` in seconds.

Every moment of the trainer's thread belongs to one phase, that of the innermost call that is timed,
and to ``rest`` where none is. So the phases of a step add up to the step. Work that a GPU is behind
with counts where the thread waits for it.

==============  ===================================================================================
``generation``  sampling; code that runs meanwhile takes no time of its own
``sandbox``     nothing to sample, because all trajectories wait for their code (or an encoded turn)
``weights``     weights on their way to the engine
``rewards``     rewards, the judge's answers among them
``encoding``    trajectories on their way to the model's inputs, pictures included
``logprobs``    log-probabilities, those in the loss too
``update``      the rest of the loss, its gradients and the optimizer
``rest``        everything else: loading rows, waiting for other processes, logging, saving
==============  ===================================================================================
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["StepTimes", "mean_times", "watch_times"]

_PHASES = {
    "_move_model_to_vllm": "weights",
    "_infer_single_or_multi_turn": "generation",
    "_compute_rewards_per_func": "rewards",
    "_prepare_batch_inputs": "encoding",
    "_get_per_token_logps_and_entropies": "logprobs",
    "training_step": "update",
}
"""Methods of the trainer that are timed."""
_REST = "rest"


class StepTimes:
    """Charges the time of one thread to phases.

    The thread is the one that makes this; in others nothing is charged.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._open: list[str] = []
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a phase, but for what inner phases take."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        self._spent[self._open[-1] if self._open else _REST] += now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, and begin anew."""
        self._charge()
        spent, self._spent = dict(self._spent), defaultdict(float)
        return spent


def watch_times(trainer: Any, times: StepTimes) -> None:
    """Time the methods of a trainer that make the phases of a step.

    Args:
        trainer: ms-swift's GRPO trainer; what it calls these methods with is handed on.
        times: Where the time is charged.
    """
    for name, phase in _PHASES.items():
        setattr(trainer, name, _timed(getattr(trainer, name), times, phase))


def _timed(method: Any, times: StepTimes, phase: str) -> Any:
    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with times.phase(phase):
            return method(*args, **kwargs)

    return timed


def mean_times(taken: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a step: means over the processes, and the step's whole length.

    Args:
        taken: What :meth:`StepTimes.take` returned, one entry per process.
    """
    names = sorted({name for spent in taken for name in spent})
    means = {
        f"thyme/time/{name}": sum(spent.get(name, 0.0) for spent in taken) / len(taken)
        for name in names
    }
    return {**means, "thyme/time/step": sum(means.values())}
