"""Which server gets a session, and which one is left alone; used by one event loop."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from swift_thyme.sandbox.remote_server import CodeServer, Fault, ServerFault

__all__ = ["Place", "ServerChoice"]

logger = logging.getLogger(__name__)

_SHORTEST_REST_S = 0.5
_LONGEST_REST_S = 30.0
_TRIAL_PAUSE_S = 0.05


@dataclass(eq=False)
class Place:
    """A server as this process knows it."""

    url: str
    server: CodeServer
    sessions: int = 0
    """Our open sessions, with those that are being opened."""
    failures: int = 0
    """Failures in a row."""
    rest_until: float = 0.0
    """Monotonic time (in seconds) before which it is left alone."""
    last_error: str = "never asked"
    """How it failed last, in words."""
    on_trial: bool = False
    """Whether an opening finds out whether it is well again."""

    def succeeded(self) -> None:
        """Note that the server did what was asked for."""
        if self.failures:
            logger.info("the sandbox server %s is back", self.url)
        self.failures = 0
        self.rest_until = 0.0

    def failed(self, fault: ServerFault, asked_at: float) -> None:
        """Note that the server did not do what was asked for.

        Args:
            fault: How it failed.
            asked_at: Monotonic time of the request. Of requests that were under way together when
                the server went down, the first alone counts.
        """
        now = time.monotonic()
        self.last_error = str(fault)
        if fault.fault is Fault.FULL:
            self.rest_until = max(self.rest_until, now + fault.wait_s)
            return
        if self.failures and asked_at < self.rest_until:
            return
        rest_s = min(_LONGEST_REST_S, _SHORTEST_REST_S * 2.0**self.failures)
        if not self.failures:
            logger.warning("a sandbox server is left out for a while: %s", fault)
        self.failures += 1
        self.rest_until = now + rest_s


class ServerChoice:
    """Chooses between servers.

    Args:
        places: The servers.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        # Processes of a job must not all begin with the same one, whatever seed the job has.
        self._random = random.Random()

    def choose(self, without: Collection[Place]) -> tuple[Place, float]:
        """Return the server for a session, and the seconds to wait before it is chosen again.

        Args:
            without: Servers that have refused; not all of them.

        Returns:
            The one with the fewest of our sessions, and no wait, where one is not left alone.
        """
        now = time.monotonic()
        waits = {place: self._wait_s(place, now) for place in self.places if place not in without}
        place = min(waits, key=lambda p: (waits[p], p.sessions, self._random.random()))
        return place, waits[place]

    def _wait_s(self, place: Place, now: float) -> float:
        if place.rest_until > now:
            return place.rest_until - now
        # One opening is enough to find out; the others would all wait for a dead server.
        return _TRIAL_PAUSE_S if place.failures and place.on_trial else 0.0
