#!/usr/bin/env python
"""What the metric of a step's phases costs (swift_thyme/host/step_times.py).

usage: python scripts/bench_step_times.py
       torchrun --standalone --nproc_per_node 4 scripts/bench_step_times.py

Prints the time of entering and leaving a phase, that of gathering the phases of all processes, and
both together for a step of scripts/rl.sh, as a share of a step of --step-s seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from swift_thyme.host.step_times import StepTimes, mean_times

N_PHASES = 200_000
N_STEPS = 200
PER_STEP = 1 + 1 + 1 + 1 + 3 * 5 + 5
"""Weights, generation, rewards, encoding, and five batches with three passes and an update each."""
WAITS = 20 * 4
"""Each turn of 20 trajectories can leave the engine without work."""


def seconds_of_a_phase() -> float:
    """Return the seconds of entering and leaving a phase inside another one."""
    times = StepTimes()
    started = time.perf_counter()
    with times.phase("generation"):
        for _ in range(N_PHASES):
            with times.phase("sandbox"):
                pass
    return (time.perf_counter() - started) / N_PHASES


def seconds_of_gathering() -> float:
    """Return the seconds of gathering the phases of all processes and taking their means."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    PartialState(cpu=True)
    times = StepTimes()
    for name in ("weights", "generation", "sandbox", "rewards", "encoding", "logprobs", "update"):
        with times.phase(name):
            pass
    gather_object([times.take()])
    started = time.perf_counter()
    for _ in range(N_STEPS):
        mean_times(gather_object([times.take()]))
    return (time.perf_counter() - started) / N_STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-s", type=float, default=2.0, help="length of a short step")
    options = parser.parse_args()
    phase_s, gather_s = seconds_of_a_phase(), seconds_of_gathering()
    if os.environ.get("RANK", "0") == "0":
        whole_s = (PER_STEP + WAITS) * phase_s + gather_s
        print(f"a phase {1e6 * phase_s:.2f} us, gathering {1e6 * gather_s:.0f} us")
        print(
            f"{PER_STEP + WAITS} phases and gathering: {1e3 * whole_s:.2f} ms, "
            f"{100 * whole_s / options.step_s:.3f} % of a step of {options.step_s:g} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
