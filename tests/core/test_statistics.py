"""Intervals: published examples, the ends of the scale, and how often they hold the truth."""

import random

import numpy as np
import pytest

from swift_thyme.core.statistics import Estimate, mean_difference, mean_score


def pairs(both: int, first: int, second: int, neither: int) -> Estimate:
    """Return the estimate for counts of pairs, each its own group."""
    a = [1.0] * (both + first) + [0.0] * (second + neither)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    return mean_difference(a, b, range(len(a)))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (12, 12, 0.7575, 1.0),
    ],
)
def test_a_share_has_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    found = mean_score([1.0] * right + [0.0] * (n - right), range(n))
    assert (found.mean, found.n) == (right / n, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe 1998, table II, method 10; the second is of Fagerland, Lydersen, Laake 2014.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((1, 1, 7, 12), -0.5069, -0.0256),
        ((36, 14, 0, 0), 0.1528, 0.4167),
        ((0, 54, 0, 0), 0.9061, 1.0),
    ],
)
def test_a_difference_of_pairs_has_newcombes_interval(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = pairs(*counts)
    assert found.mean == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("runs", [1, 3])
def test_equal_values_leave_room_and_runs_of_a_row_give_no_less(value: float, runs: int) -> None:
    once = mean_score([value] * 12, range(12))
    found = mean_score([value] * 12 * runs, list(range(12)) * runs)
    assert (found.low, found.high) == pytest.approx((once.low, once.high))
    assert 0.24 < (found.high or 0.0) - (found.low or 0.0) < 0.25
    same = mean_difference([value] * 12 * runs, [value] * 12 * runs, list(range(12)) * runs)
    assert same.mean == 0.0
    assert (same.low, same.high) == (
        pytest.approx(-0.2425, abs=1e-4),
        pytest.approx(0.2425, abs=1e-4),
    )


def test_runs_that_say_the_same_are_no_evidence_and_runs_that_differ_are_some() -> None:
    once = mean_score([1.0, 0.0] * 50, range(100))
    same = mean_score([1.0, 0.0] * 150, list(range(100)) * 3)
    assert (same.mean, same.low, same.high) == pytest.approx((0.5, once.low, once.high))
    draw = random.Random(1)
    mixed = mean_score([float(draw.random() < 0.5) for _ in range(300)], list(range(100)) * 3)
    width = (mixed.high or 0) - (mixed.low or 0)
    assert 0.10 < width < 0.7 * ((once.high or 0) - (once.low or 0))


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (1, 1, 7, 12), (20, 5, 5, 20)])
def test_pairs_that_all_runs_repeat_say_no_more_than_one_run(counts: tuple[int, ...]) -> None:
    both, first, second, neither = counts
    a = [1.0] * (both + first) + [0.0] * (second + neither)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    once = mean_difference(a, b, range(len(a)))
    thrice = mean_difference(a * 3, b * 3, list(range(len(a))) * 3)
    assert tuple(thrice[:3]) == pytest.approx(tuple(once[:3]))
    independent = mean_difference(a * 3, b * 3, range(3 * len(a)))
    assert (independent.high or 0) - (independent.low or 0) < (once.high or 0) - (once.low or 0)


def test_the_order_of_rows_and_fewer_runs_of_some_change_nothing_else() -> None:
    values, groups = [1.0, 1.0, 0.0, 1.0, 0.5], ["a", "a", "b", "c", "c"]
    found = mean_score(values, groups)
    assert found.mean == 0.7
    backwards = mean_score(values[::-1], groups[::-1])
    assert tuple(backwards) == pytest.approx(tuple(found))


def test_nothing_has_no_mean() -> None:
    assert mean_score([], []) == (None, None, None, 0)
    assert mean_difference([], [], []) == (None, None, None, 0)


@pytest.mark.parametrize("rows", [12, 40])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_intervals_hold_the_truth_also_near_the_ends(rows: int, alike: float) -> None:
    """Rows of three runs that are alike to some degree; a bootstrap of rows holds 23 to 99 %."""
    rng = np.random.default_rng(0)
    groups = list(np.repeat(np.arange(rows), 3))
    for truth in (0.5, 0.9, 0.99):
        held = 0
        for _ in range(300):
            shares = _shares(rng, truth, alike, rows)
            values = (rng.random((rows, 3)) < shares[:, None]).astype(float).ravel()
            found = mean_score(list(values), groups)
            assert found.low is not None and found.high is not None
            held += found.low <= truth <= found.high
        assert held / 300 > 0.88


def _shares(rng: np.random.Generator, truth: float, alike: float, rows: int) -> "np.ndarray":
    if alike in (0.0, 1.0):
        return np.full(rows, truth) if alike == 0 else (rng.random(rows) < truth).astype(float)
    weight = (1 - alike) / alike
    return rng.beta(truth * weight, (1 - truth) * weight, rows)
