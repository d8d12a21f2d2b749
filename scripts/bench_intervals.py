#!/usr/bin/env python
"""How often intervals of `thyme eval` hold the truth, beside a bootstrap of rows; simulated files.

Each row has three runs, and a row's own share of right answers differs from that of other rows as
much as half of what it could.
"""

from __future__ import annotations

import argparse

import numpy as np

from swift_thyme.core.statistics import mean_score

RUNS = 3
ALIKE = 0.5
RESAMPLES = 500


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the middle 95 % of means of rows drawn with replacement; values are (rows, runs)."""
    rows = values.mean(axis=1)
    means = rows[rng.integers(0, len(rows), (RESAMPLES, len(rows)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="simulated files of each kind")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    weight = (1 - ALIKE) / ALIKE
    print("| rows | true share | bootstrap of rows | now |\n|---|---|---|---|")
    for rows in (12, 40, 200):
        groups = list(np.repeat(np.arange(rows), RUNS))
        for truth in (0.5, 0.95, 0.99):
            held = [0, 0]
            for _ in range(arguments.files):
                shares = rng.beta(truth * weight, (1 - truth) * weight, (rows, 1))
                values = (rng.random((rows, RUNS)) < shares).astype(float)
                found = mean_score(list(values.ravel()), groups)
                ends = [bootstrap(values, rng), (found.low or 0.0, found.high or 0.0)]
                for which, (low, high) in enumerate(ends):
                    held[which] += low <= truth <= high
            before, now = (100 * n / arguments.files for n in held)
            print(f"| {rows} | {100 * truth:.0f} % | {before:.0f} % | {now:.0f} % |")


if __name__ == "__main__":
    main()
