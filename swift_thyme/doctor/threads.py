"""How many threads a job of one process takes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from swift_thyme.core.environment import Reader
from swift_thyme.core.finding import Finding, State
from swift_thyme.host.threads import suitable_threads

__all__ = ["threads"]


def threads(deadline_s: float) -> Iterator[Finding]:
    """Say how many threads torch takes beside a GPU."""
    cores = len(os.sched_getaffinity(0))
    given = (Reader().raw("OMP_NUM_THREADS") or "").strip()
    if given:
        yield Finding("threads", State.OK, f"{given} (OMP_NUM_THREADS), {cores} cores")
        return
    chosen = suitable_threads(cores, ranks=1)
    text = f"torch takes {chosen} beside a GPU, {cores} cores; torchrun gives each process one"
    yield Finding("threads", State.OK, text)
