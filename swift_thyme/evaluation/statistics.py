"""Means and their intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Estimate", "bootstrap_mean"]

RESAMPLES = 10_000
_AT_ONCE = 500


class Estimate(NamedTuple):
    """A mean with its 95 % interval; all None where there is nothing to average."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Values that were averaged."""


def bootstrap_mean(values: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Return the mean and its 95 % percentile bootstrap interval over groups.

    Groups (items, or all rotations of one question) are drawn with replacement, as many as there
    are, 10,000 times; the interval holds the middle 95 % of the means of the draws. Values of a
    group stay together: runs of an item are no independent evidence. The draws are a function of
    the values alone.

    Args:
        values: One value per trajectory.
        groups: The group of each value.
    """
    if not values:
        return Estimate(None, None, None, 0)
    places: Mapping[Hashable, int] = {
        group: place for place, group in enumerate(dict.fromkeys(groups))
    }
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for value, group in zip(values, groups, strict=True):
        sums[places[group]] += value
        counts[places[group]] += 1
    rng = np.random.default_rng(0)
    means = []
    for _ in range(0, RESAMPLES, _AT_ONCE):
        drawn = rng.integers(0, len(places), size=(_AT_ONCE, len(places)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), len(values))
