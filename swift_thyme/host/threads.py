"""How many threads torch takes in a process whose user has not said it.

torch takes one thread per core. In a job on GPUs the tensors that are left to the processors are
small, and 64 threads that hand them to each other take six times as long as 8. torchrun sets one
thread per process; a plain ``swift rlhf``, and the commands of ``thyme``, set none.
"""

from __future__ import annotations

import logging
import os

from swift_thyme.core.environment import Reader, speaks_for_the_job
from swift_thyme.sandbox.sandbox_settings import local_rank

__all__ = ["settle_threads", "suitable_threads"]

logger = logging.getLogger(__name__)

_VARIABLE = "OMP_NUM_THREADS"
_MOST = 8
"""More do not pay for the tensors beside a GPU; the sandbox has use for the other cores."""


def suitable_threads(cores: int, ranks: int) -> int:
    """Return the threads of a process that has a GPU to itself.

    Args:
        cores: Cores that the process may use.
        ranks: Processes of the job on the host, which share them.
    """
    return max(1, min(_MOST, cores // ranks))


def settle_threads(*, on_gpu: bool) -> None:
    """Give torch in this process a suitable number of threads, and say so.

    Does nothing where ``OMP_NUM_THREADS`` is set, and where the model runs on the processors: its
    own tensors have use for all of them.

    Args:
        on_gpu: Whether the model runs on a GPU.
    """
    if not on_gpu or (Reader().raw(_VARIABLE) or "").strip():
        return
    import torch

    _, ranks = local_rank()
    cores, before = len(os.sched_getaffinity(0)), torch.get_num_threads()
    threads = suitable_threads(cores, ranks)
    if threads >= before:
        return
    torch.set_num_threads(threads)
    if speaks_for_the_job():
        logger.info("torch takes %d threads, not %d (%s sets another)", threads, before, _VARIABLE)
