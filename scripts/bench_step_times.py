#!/usr/bin/env python
"""What the metric of a step's phases costs (swift_thyme/host/step_times.py).

usage: python scripts/bench_step_times.py
       torchrun --standalone --nproc_per_node 4 scripts/bench_step_times.py

Prints the time of entering and leaving a phase, and that of all phases of a step of scripts/rl.sh
as a share of a step of --step-s seconds. The seconds travel between processes with the metrics of
trajectories, in one exchange; the second figure is that exchange, with and without them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from swift_thyme.host.step_times import StepTimes, mean_times

N_PHASES = 200_000
N_STEPS = 20
N_REPEATS = 5
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


def seconds_of_gathering(*, with_times: bool) -> float:
    """Return the seconds of gathering a step's metrics from all processes."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    PartialState(cpu=True)
    times = StepTimes()
    names = ("weights", "generation", "sandbox", "rewards", "encoding", "logprobs", "update")
    started = time.perf_counter()
    for _ in range(N_STEPS):
        for name in names:
            with times.phase(name):
                pass
        ranks = gather_object([times.take() if with_times else {}])
        if with_times:
            mean_times(ranks)
    return (time.perf_counter() - started) / N_STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step-s", type=float, default=2.0, help="length of a short step")
    options = parser.parse_args()
    phase_s = seconds_of_a_phase()
    gathered: dict[bool, list[float]] = {True: [], False: []}
    for repetition in range(2 * N_REPEATS):
        with_times = bool(repetition % 2)
        gathered[with_times].append(seconds_of_gathering(with_times=with_times))
    from accelerate import PartialState

    if PartialState().is_main_process:
        bare_s, full_s = (statistics.median(gathered[key]) for key in (False, True))
        whole_s = (PER_STEP + WAITS) * phase_s + full_s - bare_s
        print(f"a phase {1e6 * phase_s:.2f} us, {PER_STEP + WAITS} in a step")
        print(f"an exchange {1e3 * bare_s:.2f} ms without times, {1e3 * full_s:.2f} ms with them")
        share = 100 * whole_s / options.step_s
        print(f"{1e3 * whole_s:.2f} ms, {share:.3f} % of {options.step_s:g} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
