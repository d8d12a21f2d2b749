"""The counters of the reward stage; nothing is faked."""

from __future__ import annotations

from swift_thyme.rewards.metrics import RewardMetrics


def test_nothing_counted_gives_nothing_to_log() -> None:
    assert RewardMetrics().drain() == {}


def test_draining_starts_again_from_zero() -> None:
    metrics = RewardMetrics()
    metrics.count("judge_calls", 4)
    metrics.count("judge_failed")
    assert metrics.drain()["judge_failed_rate"] == 0.25
    assert metrics.drain() == {}


def test_rates_without_a_whole_are_left_out() -> None:
    metrics = RewardMetrics()
    metrics.count("rewards_unscored")
    drained = metrics.drain()
    assert drained["judge_calls"] == 0.0
    assert "judge_failed_rate" not in drained
    assert "rule_decided" not in drained


def test_latencies_become_quantiles() -> None:
    metrics = RewardMetrics()
    metrics.count("judge_calls", 100)
    for value in range(1, 101):
        metrics.latency(value / 100)
    drained = metrics.drain()
    assert drained["judge_latency_p50"] == 0.5
    assert drained["judge_latency_p95"] == 0.95
