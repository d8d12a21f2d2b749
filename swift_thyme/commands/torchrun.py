"""A command that torchrun has started once per GPU: the first process has all of them.

``torchrun --nproc-per-node 8 --no-python thyme eval ...`` is how VLMEvalKit is started. There each
process takes a share of the rows. Here the first one runs as if it were alone, with a copy of the
model on each GPU behind one queue, so that no GPU waits for the slowest share; the others end.
"""

from __future__ import annotations

import os

from swift_thyme.core.environment import Reader
from swift_thyme.sandbox.sandbox_settings import local_rank

__all__ = ["processes_of_torchrun"]

_PREFIXES = ("TORCHELASTIC_", "ROLE_", "GROUP_")
_NAMES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_THREADS = "OMP_NUM_THREADS"


def processes_of_torchrun() -> int:
    """Return how many processes this one stands for, and let it run as if it were alone.

    Returns:
        1 without torchrun; else the processes that torchrun started on this host, of which this is
        the first; 0 in every other process, which has nothing to do.

    Raises:
        SettingsError: A variable of torchrun's is no whole number.
    """
    _, processes = local_rank()
    if Reader().count("WORLD_SIZE") <= 1:
        return 1
    if Reader().count("RANK") > 0:
        return 0
    for name in list(os.environ):
        if name in _NAMES or name.startswith(_PREFIXES):
            del os.environ[name]
    # torchrun's own choice where nobody made one; this process has the cores of all.
    if (Reader().raw(_THREADS) or "").strip() == "1":
        del os.environ[_THREADS]
    return processes
