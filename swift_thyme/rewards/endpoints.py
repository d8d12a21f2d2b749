"""What is known about the judge's servers; plain data that outlives the event loops."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

__all__ = ["Endpoint"]

_STRIKES_OUT = 3
_SHORTEST_REST_S = 0.25
_LONGEST_REST_S = 10.0


@dataclass(slots=True)
class Endpoint:
    """One OpenAI-compatible server and its health.

    A server that cannot be reached, or fails three times without a success in between, is down: it
    is rested for a while that doubles up to ten seconds, and then tried with one request.
    """

    url: str
    """Base URL, ``…/v1``."""
    model: str | None = None
    """Name of the model that it serves, once known."""
    json_mode: bool = True
    """Whether it accepts ``response_format``, as far as known."""
    strikes: int = 0
    """Failures in a row."""
    rests: int = 0
    """Rests in a row."""
    rest_until: float = 0.0
    """Monotonic time (in seconds) before which it is left alone."""
    down_since: float | None = None
    """Monotonic time (in seconds) at which it went down; None while it is up."""
    last_error: str = "never asked"
    """How it failed last, in words."""

    @property
    def up(self) -> bool:
        """Whether it may get more than a trial request."""
        return self.down_since is None

    def resting(self, now: float) -> bool:
        """Whether it is to be left alone at a monotonic time."""
        return now < self.rest_until

    def succeeded(self) -> None:
        """Note a reply that could be used."""
        self.strikes = self.rests = 0
        self.rest_until = 0.0
        self.down_since = None

    def failed(self, error: str, started: float, fatal: bool = False) -> None:
        """Note a failure of the server (not of the request).

        Args:
            error: What happened, in words.
            started: Monotonic time at which the failed request started; of requests that were in
                flight together when the server went down, only the first counts.
            fatal: Whether one such failure is enough.
        """
        now = time.monotonic()
        self.last_error = error
        if self.down_since is not None and started < self.rest_until:
            return
        self.strikes += 1
        if not fatal and self.strikes < _STRIKES_OUT and self.down_since is None:
            return
        longest = min(_LONGEST_REST_S, _SHORTEST_REST_S * 2.0**self.rests)
        self.rests += 1
        self.rest_until = now + longest * random.uniform(0.5, 1.0)
        if self.down_since is None:
            self.down_since = now

    def busy(self, wait_s: float) -> None:
        """Note that it asked to be left alone for a while (in seconds)."""
        self.last_error = "HTTP 429"
        self.rest_until = max(self.rest_until, time.monotonic() + wait_s)
