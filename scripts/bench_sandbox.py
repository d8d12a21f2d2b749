"""Measures the sandbox against a bare `exec` in a warm process.

    python scripts/bench_sandbox.py [--json FILE] [--check]
    python scripts/bench_sandbox.py --without NAME [NAME ...]

`--check` ends with status 1 and names each goal that was missed. The bare `exec` runs in a process
with the same libraries loaded, the same thread count and the same allocator settings; the two take
turns, with the same pause before each call, so that neither has warmer caches or a quieter machine.
The snippets take turns too, and so do one, two and N workers in the rate tests, so that a slower
minute of the machine is a small part of a figure instead of all of it.

`--without` measures what accelerations give (`swift_thyme/sandbox/accelerations.py`). The sandbox
with all of them takes turns with the sandbox without each that is named; `all` leaves out all of
them. It prints by how much each figure is better with the acceleration: 1.05 stands for 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from swift_thyme.sandbox import (
    ExecutionStatus,
    InputImage,
    SandboxPool,
    SandboxSession,
    SandboxSettings,
)
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.process_environment import worker_environment
from swift_thyme.sandbox.processes import descendants

Key = TypeVar("Key")

GOAL_OVERHEAD_MS = 5.0
GOAL_SPEEDUP = 1.8
GOAL_RUNAWAY_S = 0.5
PAUSE_S = 0.05
BLOCKS = 4
"""Blocks of a session, as in a rollout."""
TURN_S = 1.0
"""Length of one turn of a rate test."""
TURNS = 3
"""Turns for which sessions are kept: those of a rollout are as short-lived, with as few files."""
SETTLE_S = 0.5
"""Pause before the turns, in which the workers make the sessions that they keep ready."""
OPEN_SESSIONS = 32
"""Sessions that are open at once where their memory is measured."""

CROP = """
import cv2
import os
import numpy as np
from uuid import uuid4

image_path = "{path}"
image = cv2.imread(image_path)
x1, y1, x2, y2 = {box}
cropped_image = image[y1:y2, x1:x2]
zoom_factor = 2
resized_image = cv2.resize(
    cropped_image, None, fx=zoom_factor, fy=zoom_factor, interpolation=cv2.INTER_CUBIC
)
random_suffix = str(uuid4())[:8]
processed_path = os.path.join("{folder}", f"crop_{{random_suffix}}.jpg")
cv2.imwrite(processed_path, resized_image)
print(processed_path)
"""

PLAIN_CROP = """
import cv2

image = cv2.imread("{path}")
processed_path = "{folder}crop.jpg"
cv2.imwrite(processed_path, image[2000:2300, 3000:3400])
print(processed_path)
"""

IMREAD = {
    "OpenCV's": 'import cv2; cv2.imread("{path}")',
    "the sandbox's": 'import cv2; cv2.imread("{path}", None, cv2.IMREAD_COLOR)',
}

RUNAWAYS = {
    "C loop": "sum(range(10**14))",
    "except pass loop": (
        "while True:\n    try:\n        while True:\n            pass\n"
        "    except BaseException:\n        pass"
    ),
    "fork": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    ),
    "sleep": "import time\ntime.sleep(3600)",
}

BARE = r"""
import json, sys, time, io, contextlib
import numpy, cv2, PIL.Image, uuid
cv2.setNumThreads(1)
cv2.ocl.setUseOpenCL(False)
for line in sys.stdin:
    code = json.loads(line)
    output = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "block", "exec"), {"__name__": "__main__"})
    print(time.perf_counter() - start, flush=True)
"""


@dataclass
class Timing:
    """Milliseconds of one snippet, bare and in the sandbox."""

    bare_p50: float
    bare_p95: float
    sandbox_p50: float
    sandbox_p95: float

    @property
    def overhead(self) -> float:
        return self.sandbox_p50 - self.bare_p50


@dataclass
class Report:
    """Everything that was measured."""

    timings: dict[str, Timing] = field(default_factory=dict)
    calls_per_s: dict[str, dict[int, float]] = field(default_factory=dict)
    """Snippet -> number of workers -> blocks per second."""
    imread_ms: dict[str, float] = field(default_factory=dict)
    """What a bare `exec` takes for reading the 24-megapixel JPEG, p50."""
    sessions_per_s: float = 0.0
    session_mb: float = 0.0
    """Memory of an open session that has run a crop."""
    runaways_s: dict[str, float] = field(default_factory=dict)
    limit_s: float = 1.0
    start_s: float = 0.0

    def missed(self) -> list[str]:
        """Return the goals that were missed, in words."""
        found = [
            f"{name}: {timing.overhead:.1f} ms over the bare exec, goal {GOAL_OVERHEAD_MS} ms"
            for name, timing in self.timings.items()
            if timing.overhead > GOAL_OVERHEAD_MS
        ]
        for name, rates in self.calls_per_s.items():
            ratio = rates[2] / rates[1]
            if ratio < GOAL_SPEEDUP:
                found.append(f"{name}: 2 workers are {ratio:.2f} x one, goal {GOAL_SPEEDUP} x")
        found += [
            f"{name}: over after {seconds:.2f} s, goal {self.limit_s + GOAL_RUNAWAY_S:.1f} s"
            for name, seconds in self.runaways_s.items()
            if seconds > self.limit_s + GOAL_RUNAWAY_S
        ]
        return found


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def make_images(folder: Path) -> dict[str, Path]:
    """Write a 2000x1500 and a 24-megapixel JPEG with some structure in them."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    paths = {}
    for name, size in (("2000x1500", (2000, 1500)), ("24 MP", (6000, 4000))):
        small = random.integers(0, 255, (150, 200, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        paths[name] = folder / f"{name.replace(' ', '')}.jpg"
        image.save(paths[name], quality=90)
    return paths


def snippets(images: dict[str, Path], folder: str) -> dict[str, str]:
    """Return name -> code."""
    small, large = images["2000x1500"], images["24 MP"]
    return {
        "print(1+1)": "print(1+1)",
        "crop and zoom, 2000x1500": CROP.format(
            path=small, box="1250, 1030, 1360, 1070", folder=folder
        ),
        "crop, 24 MP": PLAIN_CROP.format(path=large, folder=folder),
    }


class BareProcess:
    """A warm process that runs code by a bare `exec` and says how long it took, in seconds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", BARE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(),
        )

    def run(self, code: str) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(code), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


async def measure_latency(
    pool: SandboxPool,
    jobs: dict[str, str],
    bare_jobs: dict[str, str],
    images: list[InputImage],
    count: int,
) -> dict[str, Timing]:
    """Time `count` blocks of each snippet, as successive blocks of short sessions."""
    bare_process = BareProcess()
    bare: dict[str, list[float]] = {name: [] for name in jobs}
    boxed: dict[str, list[float]] = {name: [] for name in jobs}
    for code in bare_jobs.values():
        for _ in range(3):
            bare_process.run(code)
    for _ in range(math.ceil(count / BLOCKS)):
        for name, code in jobs.items():
            async with await pool.open(images) as session:
                for _ in range(BLOCKS):
                    # A model thinks between two blocks; the commit of the last one is over then.
                    await asyncio.sleep(PAUSE_S)
                    bare[name].append(1000 * bare_process.run(bare_jobs[name]))
                    await asyncio.sleep(PAUSE_S)
                    start = time.perf_counter()
                    result = await session.run(code)
                    boxed[name].append(1000 * (time.perf_counter() - start))
                    assert result.ok, result.error
    bare_process.close()
    return {
        name: Timing(
            *(statistics.median(bare[name]), percentile(bare[name], 0.95)),
            *(statistics.median(boxed[name]), percentile(boxed[name], 0.95)),
        )
        for name in jobs
    }


def measure_imread(path: Path, count: int) -> dict[str, float]:
    """Time, without any sandbox, the two ways to read a picture."""
    bare = BareProcess()
    times: dict[str, list[float]] = {name: [] for name in IMREAD}
    for _ in range(count + 1):
        for name, code in IMREAD.items():
            times[name].append(1000 * bare.run(code.format(path=path)))
    bare.close()
    return {name: statistics.median(values[1:]) for name, values in times.items()}


async def measure_turn(sessions: list[SandboxSession], code: str) -> float:
    """Count the blocks of one turn, in which all sessions ask at once, again and again."""
    end = time.perf_counter() + TURN_S
    done = 0.0

    async def ask(session: SandboxSession) -> None:
        nonlocal done
        while (start := time.perf_counter()) < end:
            assert (await session.run(code)).ok
            # Of a block that outlasts the turn the part counts that lies in it.
            done += min(1.0, (end - start) / (time.perf_counter() - start))

    await asyncio.gather(*map(ask, sessions))
    return done


async def measure_rate(
    pools: dict[Key, SandboxPool], code: str, images: list[InputImage], rounds: int
) -> dict[Key, float]:
    """Return blocks per second of each pool, with two sessions for each worker."""
    done = dict.fromkeys(pools, 0.0)
    for number in range(rounds):
        sessions = {
            key: [await pool.open(images) for _ in range(2 * pool.settings.workers)]
            for key, pool in pools.items()
        }
        await asyncio.gather(*(s.run(code) for some in sessions.values() for s in some))
        await asyncio.sleep(SETTLE_S)
        for turn in range(TURNS):
            keys = list(sessions)
            first = (turn * len(keys) // TURNS + number) % len(keys)
            for key in keys[first:] + keys[:first]:
                done[key] += await measure_turn(sessions[key], code)
        await asyncio.gather(*(s.close() for some in sessions.values() for s in some))
    return {key: count / (rounds * TURNS * TURN_S) for key, count in done.items()}


async def measure_sessions(pool: SandboxPool, images: list[InputImage], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        await (await pool.open(images)).close()
    return count / (time.perf_counter() - start)


def memory_of_processes() -> float:
    """Return the MB of this process's descendants: pages, each counted once, and page tables."""
    found = 0
    for pid in descendants(os.getpid()):
        try:
            for name, key in (("smaps_rollup", "Pss:"), ("status", "VmPTE:")):
                lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
                found += sum(int(line.split()[1]) for line in lines if line.startswith(key))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return found / 1024


async def measure_memory(
    pool: SandboxPool, images: list[InputImage], code: str, count: int
) -> float:
    """Return the MB of an open session that has run a block."""
    async with AsyncExitStack() as stack:
        # The worker keeps some sessions ready, before and after.
        await asyncio.sleep(SETTLE_S)
        before = memory_of_processes()
        for _ in range(count):
            session = await stack.enter_async_context(await pool.open(images))
            assert (await session.run(code)).ok
        await asyncio.sleep(SETTLE_S)
        return (memory_of_processes() - before) / count


async def measure_runaways(pool: SandboxPool, limit_s: float) -> dict[str, float]:
    results = {}
    for name, code in RUNAWAYS.items():
        async with await pool.open() as session:
            start = time.perf_counter()
            result = await session.run(code, timeout_s=limit_s)
            results[name] = time.perf_counter() - start
            assert result.status is not ExecutionStatus.OK
            assert (await session.run("print(1)")).stdout == "1\n"
    return results


async def measure(count: int, rounds: int, workers: list[int]) -> Report:
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_images(folder)
        output = folder / "output"
        output.mkdir()
        inputs = [InputImage(str(path), path) for path in images.values()]
        bare_jobs = snippets(images, f"{output}/")
        jobs = snippets(images, "/mnt/data/temp_processed_images/")
        start = time.perf_counter()
        async with SandboxPool(SandboxSettings(workers=1)) as pool:
            report.start_s = time.perf_counter() - start
            report.imread_ms = measure_imread(images["24 MP"], max(1, count // 6))
            report.timings = await measure_latency(pool, jobs, bare_jobs, inputs, count)
            report.sessions_per_s = await measure_sessions(pool, inputs[:1], 20)
            crop = jobs["crop and zoom, 2000x1500"]
            report.session_mb = await measure_memory(pool, inputs[:1], crop, OPEN_SESSIONS)
            report.runaways_s = await measure_runaways(pool, report.limit_s)
        async with AsyncExitStack() as stack:
            pools = {n: SandboxPool(SandboxSettings(workers=n)) for n in workers}
            for pool in pools.values():
                await stack.enter_async_context(pool)
            for key, code in jobs.items():
                report.calls_per_s[key] = await measure_rate(pools, code, inputs, rounds)
    return report


@dataclass
class Side:
    """What one choice of accelerations gives."""

    open_ms: list[float] = field(default_factory=list)
    block_ms: dict[str, list[float]] = field(default_factory=dict)
    """Snippet -> times of its blocks."""
    calls_per_s: dict[str, dict[int, float]] = field(default_factory=dict)
    """Snippet -> number of workers -> blocks per second."""

    def figures(self) -> dict[str, float]:
        """Return every figure as seconds or milliseconds: less is better."""
        found = {"open": statistics.median(self.open_ms)}
        found |= {name: statistics.median(times) for name, times in self.block_ms.items()}
        for name, rates in self.calls_per_s.items():
            found |= {f"{name}, {n} w": 1 / rate for n, rate in rates.items()}
        return found


def fast_without(name: str) -> tuple[str, ...]:
    """Return the setting `fast` that leaves out one acceleration, or `all`."""
    return ("off",) if name == "all" else (f"-{name}",)


async def measure_sides(names: list[str], count: int, rounds: int, only: str) -> dict[str, Side]:
    """Measure the sandbox with all accelerations and without each of those named, in turns."""
    fast = {"with": ("on",), **{name: fast_without(name) for name in names}}
    sides = {name: Side() for name in fast}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = make_images(folder)
        inputs = [InputImage(str(path), path) for path in images.values()]
        jobs = snippets(images, "/mnt/data/temp_processed_images/")
        jobs = {key: code for key, code in jobs.items() if only in key}
        pools = {
            (name, n): SandboxPool(SandboxSettings(workers=n, fast=words))
            for name, words in fast.items()
            for n in (1, 2)
        }
        for pool in pools.values():
            await stack.enter_async_context(pool)
        for turn in range(math.ceil(count / BLOCKS)):
            order = [*fast][turn % len(fast) :] + [*fast][: turn % len(fast)]
            for key, code in jobs.items():
                for name in order:
                    await measure_session(pools[name, 1], inputs, key, code, sides[name])
        for key, code in jobs.items():
            for (name, n), rate in (await measure_rate(pools, code, inputs, rounds)).items():
                sides[name].calls_per_s.setdefault(key, {})[n] = rate
    return sides


async def measure_session(
    pool: SandboxPool, images: list[InputImage], name: str, code: str, side: Side
) -> None:
    """Time the opening of a session and its blocks."""
    times = side.block_ms.setdefault(name, [])
    await asyncio.sleep(PAUSE_S)
    start = time.perf_counter()
    async with await pool.open(images) as session:
        side.open_ms.append(1000 * (time.perf_counter() - start))
        for _ in range(BLOCKS):
            await asyncio.sleep(PAUSE_S)
            start = time.perf_counter()
            assert (await session.run(code)).ok
            times.append(1000 * (time.perf_counter() - start))


def show_sides(sides: dict[str, Side]) -> None:
    base = sides["with"].figures()
    names = [name for name in sides if name != "with"]
    print(f"{'':34}{'with':>10}" + "".join(f"{name:>20}" for name in names))
    for key, value in base.items():
        unit = f"{1 / value:.1f}/s" if key.endswith(" w") else f"{value:.2f} ms"
        ratios = [sides[name].figures()[key] / value for name in names]
        print(f"{key:34}{unit:>10}" + "".join(f"{ratio:>20.3f}" for ratio in ratios))


def show(report: Report) -> None:
    counts = list(next(iter(report.calls_per_s.values())))
    columns = [f"{n} worker{'s' * (n > 1)}" for n in counts]
    columns += [f"{b} : {a}" for a, b in pairwise(counts)]
    print(f"{'':26}{'bare exec':>18}{'sandbox':>18}{'overhead':>10}", end="")
    print(f"{'calls per second':>{12 * len(counts)}}")
    print(f"{'':26}{'p50 / p95 ms':>18}{'p50 / p95 ms':>18}{'p50 ms':>10}", end="")
    print("".join(f"{column:>12}" for column in columns))
    for name, timing in report.timings.items():
        bare = f"{timing.bare_p50:.2f} / {timing.bare_p95:.2f}"
        boxed = f"{timing.sandbox_p50:.2f} / {timing.sandbox_p95:.2f}"
        rates = list(report.calls_per_s[name].values())
        cells = [f"{rate:.1f}" for rate in rates]
        cells += [f"{b / a:.2f} x" for a, b in pairwise(rates)]
        print(f"{name:26}{bare:>18}{boxed:>18}{timing.overhead:>10.2f}", end="")
        print("".join(f"{cell:>12}" for cell in cells))
    ways = ", ".join(f"{name} {value:.2f} ms" for name, value in report.imread_ms.items())
    print(f"\ncv2.imread alone, 24 MP, bare exec: {ways}")
    print(
        f"worker start {report.start_s:.1f} s, sessions opened and closed "
        f"{report.sessions_per_s:.1f} per second, {report.session_mb:.1f} MB of memory in each"
    )
    for name, seconds in report.runaways_s.items():
        print(f"runaway, {name}: limit {report.limit_s:g} s, over after {seconds:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 where a goal is missed")
    parser.add_argument("--count", type=int, default=120, help="calls per snippet")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each rate test")
    parser.add_argument(
        "--without",
        nargs="+",
        metavar="NAME",
        choices=[*(item.value for item in Acceleration), "all"],
        help="measure what accelerations give, or `all` of them",
    )
    parser.add_argument("--only", default="", help="with --without: snippets with this in the name")
    arguments = parser.parse_args()
    if arguments.without:
        sides = measure_sides(arguments.without, arguments.count, arguments.rounds, arguments.only)
        show_sides(asyncio.run(sides))
        return 0
    cores = len(os.sched_getaffinity(0))
    report = asyncio.run(measure(arguments.count, arguments.rounds, sorted({1, 2, cores})))
    show(report)
    missed = report.missed()
    for goal in missed:
        print(f"missed: {goal}")
    if arguments.json is not None:
        values = {**asdict(report), "cores": cores, "missed": missed}
        arguments.json.write_text(json.dumps(values, indent=2))
    return 1 if missed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
