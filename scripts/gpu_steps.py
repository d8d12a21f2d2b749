"""Rows and the table for `gpu/steps.sh`: what a step of GRPO costs, before and after.

usage: python scripts/gpu_steps.py rows RL.jsonl ROWS.jsonl [--rows 64] [--generations 4] [--alike]
       python scripts/gpu_steps.py table BEFORE AFTER
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

MEDIAN_THOUGHT = 110
"""Tokens of a thought, half of them shorter."""
SIGMA = 1.0
"""Of the logarithm of their lengths."""
LONGEST_THOUGHT = 1200
TIMES = "thyme/time/"
SAME = ("loss", "grad_norm", "reward", "thyme/sampled_tokens", "thyme/images")
"""Metrics that both ways have to give alike."""


def write_rows(source: Path, out: Path, n: int, generations: int, *, alike: bool) -> None:
    """Let the question of each row name a plan for each trajectory of its group.

    Where the rows are alike, all have the plans of the first, so steps differ in their pictures.
    """
    import rollout_policy

    rng = random.Random(11)
    plans = new_plans(rng, generations)
    with out.open("w") as file:
        for number, line in enumerate(source.read_text().splitlines()[:n]):
            row = json.loads(line)
            if number and not alike:
                plans = new_plans(rng, generations)
            asked = rollout_policy.question(plans, number)
            for message in row["messages"]:
                message["content"] = message["content"].replace(row["question"], asked)
            file.write(json.dumps({**row, "question": asked, "solution": "2"}) + "\n")


def new_plans(rng: random.Random, generations: int) -> list[list[int]]:
    """Return how many tokens each thought of each trajectory of a group has."""
    return [
        [
            min(
                max(round(rng.lognormvariate(math.log(MEDIAN_THOUGHT), SIGMA)), 8),
                LONGEST_THOUGHT,
            )
            for _ in range(rng.choice((2, 3, 4)))
        ]
        for _ in range(generations)
    ]


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a job's steps."""
    (path,) = folder.glob("**/logging.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if f"{TIMES}step" in record]


def read_counts(folder: Path) -> list[list[dict[str, Any]]]:
    """Return what each process counted in each step, by step."""
    ranks = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("counts.*.jsonl"))
    ]
    return [list(step) for step in zip(*ranks, strict=False)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 10 else f"{value:.1f}"


def table(folders: dict[str, Path]) -> str:
    """Return the seconds of the phases in each step, and what was counted, for each job."""
    jobs = {name: (read_steps(path), read_counts(path)) for name, path in folders.items()}
    lines: list[str] = []
    for name, (steps, counts) in jobs.items():
        heads = [f"step {i + 1}" for i in range(len(steps))]
        lines += [f"{name}:", "", f"| | {' | '.join([*heads, 'mean from 2'])} |"]
        lines.append("| --- " * (len(heads) + 2) + "|")
        phases = sorted({key for step in steps for key in step if key.startswith(TIMES)})
        values = {phase.removeprefix(TIMES): [s.get(phase) for s in steps] for phase in phases}
        values["first over second"] = [
            steps[0][f"{TIMES}step"] / step[f"{TIMES}step"] for step in steps
        ]
        if counts:
            n = sum(count["trajectories"] for count in counts[0])
            values["engine steps, most of a process"] = [
                max(count["engine_steps"] for count in step) for step in counts
            ]
            values["longest trajectory"] = [
                max(count["longest"] for count in step) for step in counts
            ]
            for what in ("encode_calls", "decodes", "resizes"):
                values[f"{what} per trajectory"] = [
                    sum(count[what] for count in step) / n for step in counts
                ]
            values["seconds in encode, mean of the processes"] = [
                statistics.mean(count["encode_s"] for count in step) for step in counts
            ]
        values |= {key: [step.get(key) for step in steps] for key in SAME}
        for what, found in values.items():
            steady = [value for value in found[1:] if value is not None]
            mean = statistics.mean(steady) if steady else None
            lines.append(f"| {what} | {' | '.join(map(_number, [*found, mean]))} |")
        lines.append("")
    return "\n".join([*lines, *_compare(jobs)])


def _compare(jobs: dict[str, Any]) -> list[str]:
    (before, counted_before), (after, counted_after) = jobs.values()
    lines = []
    for phase in ("generation", "encoding", "step"):
        means = [
            statistics.mean(
                step.get(f"{TIMES}{phase}", 0)
                # Waiting for the sandbox is part of a turn in lock step.
                + (step.get(f"{TIMES}sandbox", 0) if phase == "generation" else 0)
                for step in (steps[1:] or steps)
            )
            for steps in (before, after)
        ]
        lines.append(
            f"{phase}: {means[0]:.1f} s before, {means[1]:.1f} s after, "
            f"{means[0] / max(means[1], 1e-9):.2f} x"
        )
    for number, (one, other) in enumerate(zip(before, after, strict=False), 1):
        apart = {key: abs(one[key] - other[key]) for key in SAME if key in one and key in other}
        lines.append(f"step {number}, apart: {json.dumps(apart)}")
    for number, (one, other) in enumerate(zip(counted_before, counted_after, strict=False), 1):
        digests = [[count["digest"] for count in step] for step in (one, other)]
        lines.append(f"step {number}, same ids and masks: {digests[0] == digests[1]}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("source", type=Path)
    rows.add_argument("out", type=Path)
    rows.add_argument("--rows", type=int, default=64)
    rows.add_argument("--generations", type=int, default=4)
    rows.add_argument("--alike", action="store_true", help="the same lengths in each row")
    both = commands.add_parser("table")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "rows":
        n, generations = arguments.rows, arguments.generations
        write_rows(arguments.source, arguments.out, n, generations, alike=arguments.alike)
    else:
        print(table({"before": arguments.before, "after": arguments.after}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
