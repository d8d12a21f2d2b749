"""Counters of the reward stage, kept as plain numbers until somebody logs them."""

from __future__ import annotations

import math
import threading
from collections import Counter

__all__ = ["RewardMetrics"]

_MOST_LATENCIES = 10_000


class RewardMetrics:
    """What the rewards did since the last :meth:`drain`; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies_s: list[float] = []

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += amount

    def latency(self, seconds: float) -> None:
        """Record how long a judge took to give one verdict (in seconds)."""
        with self._lock:
            if len(self._latencies_s) < _MOST_LATENCIES:
                self._latencies_s.append(seconds)

    def drain(self) -> dict[str, float]:
        """Return what was counted and start again from zero.

        Keys, each only where it has a meaning in the drained period:

        - ``judge_calls``: different questions put to a judge; ``judge_cached``: questions that
          another sample or reward of the same step had asked already.
        - ``judge_failed``: questions without a verdict; ``judge_failed_rate``: their share of
          ``judge_calls``; ``judge_requests``: HTTP requests, retries included.
        - ``judge_latency_p50``, ``judge_latency_p95``: seconds per verdict, queueing not included.
        - ``rule_decided``: share in [0, 1] of the compared answers that needed no judge.
        - ``rewards_unscored``: rewards left without a value by this process;
          ``rewards_filled``: those, of all processes, that got the mean of their group instead,
          counted by the main process.
        """
        with self._lock:
            counts, latencies = self._counts, sorted(self._latencies_s)
            self._counts, self._latencies_s = Counter(), []
        drained: dict[str, float] = {}
        if not counts:
            return drained
        for name in ("judge_calls", "judge_cached", "judge_failed", "judge_requests"):
            drained[name] = float(counts[name])
        if counts["judge_calls"]:
            drained["judge_failed_rate"] = counts["judge_failed"] / counts["judge_calls"]
        if latencies:
            drained["judge_latency_p50"] = _quantile(latencies, 0.50)
            drained["judge_latency_p95"] = _quantile(latencies, 0.95)
        if counts["answers"]:
            drained["rule_decided"] = counts["answers_by_rule"] / counts["answers"]
        for name in ("rewards_unscored", "rewards_filled"):
            drained[name] = float(counts[name])
        return drained


def _quantile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank quantile of sorted values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
