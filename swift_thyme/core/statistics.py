"""Means, differences of pairs, and their 95 % intervals.

Every value is a score from 0 to 1. Values of one group (the runs of a row, all rotations of a
question) are no independent evidence. Nothing is drawn at random, and no interval has the length 0:
twelve right answers of twelve leave room for a model that is wrong at times.

A mean has Wilson's score interval (Wilson 1927, recommended by Brown, Cai and DasGupta 2001). With
groups it is Wilson's interval for the effective number of values, as for surveys (Korn and Graubard
1998; Dean and Pagano 2015). A resampling of groups would collapse where all of them are right.

A difference of pairs has Newcombe's interval (1998, "Improved confidence intervals for the
difference between binomial proportions based on paired data", method 10), made of the two score
intervals and the correlation within pairs. With groups the same quantities are those of groups.
Of samples that are not paired, the two are independent: the same without the correlation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Estimate", "difference", "mean_difference", "mean_score", "wilson"]

_Z = 1.959963984540054
"""Quantile of the normal distribution at 97.5 %."""

_Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with its 95 % interval; all None where there is nothing to average."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Values that were averaged."""


_NOTHING = Estimate(None, None, None, 0)


def wilson(mean: float, n: float) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % score interval.

    Args:
        mean: Share of successes, 0 to 1.
        n: Independent observations, more than 0; a fraction is allowed.
    """
    spread = _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    middle, scale = mean + _Z**2 / (2 * n), 1 + _Z**2 / n
    # Rounding may not put an end beyond the mean, nor beyond what is possible.
    low = max(0.0, min(mean, (middle - spread) / scale))
    high = min(1.0, max(mean, (middle + spread) / scale))
    return low, high


def mean_score(values: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Return the mean of scores and its 95 % interval.

    Args:
        values: One score per trajectory, 0 to 1.
        groups: The group of each score; with a group for each of them this is Wilson's interval.
    """
    if not values:
        return _NOTHING
    sums, sizes = _by_group(values, groups)
    mean = float(sums.sum() / sizes.sum())
    low, high = wilson(mean, _effective_size(sums, sizes))
    return Estimate(mean, low, high, len(values))


def mean_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]
) -> Estimate:
    """Return the mean of ``first`` minus ``second`` over pairs and its 95 % interval.

    Args:
        first: One score per pair, 0 to 1.
        second: The other score of each pair.
        groups: The group of each pair; with a group for each of them this is Newcombe's interval.
    """
    if not first:
        return _NOTHING
    sums_a, sizes = _by_group(first, groups)
    sums_b, _ = _by_group(second, groups)
    a, b = float(sums_a.sum() / sizes.sum()), float(sums_b.sum() / sizes.sum())
    rho = _correlation(sums_a - a * sizes, sums_b - b * sizes, sizes)
    low, high = difference(
        a, _effective_size(sums_a, sizes), b, _effective_size(sums_b, sizes), rho
    )
    return Estimate(a - b, low, high, len(first))


def difference(
    first: float, n_first: float, second: float, n_second: float, rho: float = 0.0
) -> tuple[float, float]:
    """Return the ends of Newcombe's 95 % interval of ``first`` minus ``second``.

    Args:
        first: A share of successes, 0 to 1.
        n_first: Independent observations behind it, more than 0.
        second: The other share.
        n_second: Those behind the other one.
        rho: Their correlation, -1 to 1; 0 for samples that are not paired.
    """
    low_a, high_a = wilson(first, n_first)
    low_b, high_b = wilson(second, n_second)
    low = first - second - _joined(first - low_a, high_b - second, rho)
    high = first - second + _joined(high_a - first, second - low_b, rho)
    return max(low, -1.0), min(high, 1.0)


def _joined(one: float, other: float, rho: float) -> float:
    """Return the distance of an end of a difference, from those of its two terms."""
    return math.sqrt(max(one**2 - 2 * rho * one * other + other**2, 0.0))


def _by_group(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[_Floats, _Floats]:
    """Return sum and number of the values of each group."""
    places: dict[Hashable, int] = {}
    where = [places.setdefault(group, len(places)) for group in groups]
    weights = np.asarray(values, dtype=np.float64)
    sums = np.bincount(where, weights=weights).astype(np.float64)
    return sums, np.bincount(where).astype(np.float64)


def _effective_size(sums: _Floats, sizes: _Floats) -> float:
    """Return how many independent values say as much; between 1 and the number of values.

    It is the number of values over the design effect: the variance between groups, over the one
    that independent values would have. Where nearly all values are equal, few groups say nothing
    about it. So two groups that are right and two that are wrong are put beside them, as Agresti
    and Coull (1998) do for a mean: then equal values count as one for each group.
    """
    size = float(sizes.mean())
    sums = np.concatenate([sums, [size, size, 0.0, 0.0]])
    padded = np.concatenate([sizes, [size] * 4])
    mean = float(sums.sum() / padded.sum())
    between = float(np.square(sums - mean * padded).sum())
    independent = float(padded.sum()) * mean * (1 - mean)
    return float(sizes.sum()) / max(between / independent, 1.0)


def _correlation(first: _Floats, second: _Floats, sizes: _Floats) -> float:
    """Return the correlation of two residuals of groups, -1 to 1.

    A positive one is reduced by half a pair's worth, the continuity correction of method 10.
    """
    spread = math.sqrt(float(np.square(first).sum() * np.square(second).sum()))
    if spread == 0:
        return 0.0
    common = float((first * second).sum())
    if common > 0:
        common = max(common - float(np.square(sizes).mean()) / 2, 0.0)
    return min(max(common / spread, -1.0), 1.0)
