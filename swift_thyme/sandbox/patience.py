"""How long to wait for processes in which code of a model may have a say.

Such a process is to do something of ours that takes milliseconds: to fork, to get ready. On a busy
host that can take long, which is nobody's fault. A process that does something else instead shows
it: it uses processor time of its own, or waits for something that nobody will give it.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from swift_thyme.sandbox.processes import descendants, looks

__all__ = ["Patience"]

_MOST_S = 8.0
"""Seconds after which it is over in any case."""
_PROCESSOR_S = 0.6
"""Seconds of processor time of all processes together."""
_IDLE_AFTER_S = 0.8
"""Seconds after which it is over where all of them wait for something."""
_IDLE_LOOKS = 3


class Patience:
    """Decides whether to go on waiting for the processes of one session.

    Args:
        root: The keeper.
        others: Descendants of it that are none of them.
    """

    def __init__(self, root: int, others: Collection[int]) -> None:
        self._root = root
        self._others = frozenset(others)
        self._started = time.monotonic()
        self._before = self._used()[0]
        self._idle = 0

    def is_over(self) -> bool:
        """Tell whether to give up now; to be asked several times per second."""
        elapsed = time.monotonic() - self._started
        used, waits = self._used()
        self._idle = self._idle + 1 if waits and elapsed > _IDLE_AFTER_S else 0
        spent = used - self._before > _PROCESSOR_S
        return spent or elapsed > _MOST_S or self._idle >= _IDLE_LOOKS

    def _used(self) -> tuple[float, bool]:
        """Return their processor time, and whether all of them wait for something."""
        pids = [pid for pid in descendants(self._root) if pid not in self._others]
        found = [look for look in map(looks, pids) if look is not None]
        return sum(look.processor_s for look in found), all(look.is_waiting for look in found)
