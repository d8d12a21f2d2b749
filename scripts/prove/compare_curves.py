"""Draws training curves of several arms, each the mean over its seeds, into one picture.

    PYTHONPATH=scripts python -m prove.compare_curves OUT.png NAME=FILE[,FILE,...] ...

The files are the logging.jsonl of an arm's seeds.
A point is the mean over SPAN steps before it; the band goes from the lowest to the highest seed. A
curve ends where the first of its seeds ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

METRICS = {
    "rewards/VqaORM/mean": "accuracy in training",
    "thyme/tool_use_rate": "tool used",
    "thyme/code_success_rate": "code that ran",
    "thyme/sampled_tokens": "sampled tokens",
}
SPAN = 10


def smooth(values: list[float]) -> npt.NDArray[np.float64]:
    """Return the mean over the SPAN values up to each one, from the SPAN-th on."""
    return np.convolve(values, np.ones(SPAN) / SPAN, mode="valid")


def seeds_of(paths: str, metric: str) -> npt.NDArray[np.float64]:
    """Return smoothed values, of shape (seeds, points)."""
    curves = []
    for path in paths.split(","):
        rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
        curves.append(smooth([row[metric] for row in rows if metric in row]))
    points = min(map(len, curves))
    return np.stack([curve[:points] for curve in curves])


def main(out: str, *arms: str) -> None:
    figure, axes = plt.subplots(
        1, len(METRICS), figsize=(4 * len(METRICS), 3.2), layout="constrained"
    )
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for arm in arms:
            name, _, paths = arm.partition("=")
            curves = seeds_of(paths, metric)
            steps = np.arange(SPAN, SPAN + curves.shape[1])
            (line,) = axis.plot(steps, curves.mean(axis=0), label=name)
            axis.fill_between(
                steps, curves.min(axis=0), curves.max(axis=0), alpha=0.12, color=line.get_color()
            )
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=8)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
