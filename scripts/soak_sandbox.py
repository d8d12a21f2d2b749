"""Runs many blocks, good, failing and hostile ones, and shows that nothing is left behind.

    python scripts/soak_sandbox.py [--blocks 20000] [--kills 40] [--json FILE]

Trajectories of one to four blocks run side by side. Each block's result is compared with what it
must be, a counter in the session's state shows that blocks which failed were undone, and workers
are killed (SIGKILL) at random: only sessions of a killed worker may be lost, and never a result
that has been given. Ends with status 1 where a process, a descriptor or a file is left, or where
memory grew over the second half of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.sandbox import (
    ExecutionResult,
    InputImage,
    SandboxPool,
    SandboxSession,
    SandboxSettings,
)

IMAGE_PATH = "/data/soak.jpg"
MAX_GROWTH = 0.10
"""Share by which memory may be larger at the end than half-way; judged in runs of some length."""
LEAST_BLOCKS = 2000

COUNT = "count = globals().get('count', 0) + 1\n"
Check = Callable[[ExecutionResult], bool]

# name -> (share, code, limit in seconds, check of the result); all but the good ones are undone
BLOCKS: dict[str, tuple[float, str, float, Check]] = {
    "print": (0.45, "print(count)", 5, lambda r: r.ok),
    "crop": (
        0.25,
        "image = cv2.imread(image_path)\n"
        "cv2.imwrite(f'crop{count}.jpg', image[10:80, 20:90])\nprint(f'crop{count}.jpg')",
        5,
        lambda r: r.ok and len(r.images) == 1 and r.images[0].width == 70,
    ),
    "file": (0.1, "open('f', 'a').write('x')\nprint(count)", 5, lambda r: r.ok),
    "error": (0.1, "open('g', 'w').write('x')\n1 / 0", 5, lambda r: r.status == "error"),
    "exit": (0.03, "os._exit(0)", 5, lambda r: r.status == "killed"),
    "memory": (0.02, "x = bytearray(8 << 30)", 5, lambda r: r.status == "memory"),
    "orphan": (
        0.02,
        "import time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint(count)",
        5,
        lambda r: r.ok,
    ),
    "sleep": (0.01, "import time\ntime.sleep(600)", 0.3, lambda r: r.status == "timeout"),
    "forks": (
        0.005,
        "while True:\n    try: os.fork()\n    except OSError: pass",
        0.3,
        lambda r: r.status in ("timeout", "killed"),
    ),
    "broken picture": (
        0.015,
        "open('b.png', 'wb').write(b'\\x89PNG\\r\\n' + bytes(99))\nprint('b.png')",
        5,
        lambda r: not r.images,
    ),
}


@dataclass
class Sample:
    """What the processes of this run held at one moment."""

    blocks: int
    seconds: float
    own_mib: float
    """Resident memory of this process, in MiB."""
    workers_mib: float
    """Resident memory of a worker on average, in MiB."""
    processes: int
    """This process's descendants."""
    descriptors: int
    """Open descriptors of this process and its workers."""


@dataclass
class Report:
    """Everything that was counted."""

    blocks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BLOCKS, 0))
    wrong: list[str] = field(default_factory=list)
    lost_sessions: int = 0
    killed_workers: int = 0
    samples: list[Sample] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def make_image() -> bytes:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def children(pid: int) -> list[int]:
    """Return the processes that a process has begun; one that has ended has none."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def open_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def sample(done: int, started: float) -> Sample:
    own = os.getpid()
    workers = children(own)
    memory = [resident_mib(pid) for pid in workers]
    return Sample(
        done,
        time.monotonic() - started,
        resident_mib(own),
        sum(memory) / max(1, len(memory)),
        len(descendants(own)),
        open_descriptors(own) + sum(map(open_descriptors, workers)),
    )


class Soak:
    """The run.

    Args:
        blocks: Blocks to run.
        kills: Workers to kill, spread over the run.
        side_by_side: Trajectories that run at the same time.
    """

    def __init__(self, blocks: int, kills: int, side_by_side: int) -> None:
        self._blocks = blocks
        self._kills = kills
        self._side_by_side = side_by_side
        self._random = random.Random(0)
        self._done = 0
        self.report = Report()

    async def run(self) -> Report:
        image = make_image()
        started = time.monotonic()
        next_sample = 0
        async with SandboxPool(SandboxSettings(memory_mb=512, processes=32)) as pool:
            running = {
                asyncio.create_task(self._trajectories(pool, image))
                for _ in range(self._side_by_side)
            }
            while running:
                done, running = await asyncio.wait(running, timeout=0.2)
                for task in done:
                    task.result()
                if self._done >= next_sample:
                    self.report.samples.append(sample(self._done, started))
                    next_sample += max(1, self._blocks // 20)
                if self.report.killed_workers * self._blocks < self._kills * self._done:
                    self._kill_a_worker()
            await self._settled(pool)
            self.report.samples.append(sample(self._done, started))
        return self.report

    async def _settled(self, pool: SandboxPool) -> None:
        """Wait until closed sessions are gone and each worker has its spare one again."""
        async with await pool.open() as session:
            await session.run("print(1)")
        await asyncio.sleep(1.0)
        gc.collect()

    def _kill_a_worker(self) -> None:
        workers = children(os.getpid())
        if workers:
            os.kill(self._random.choice(workers), signal.SIGKILL)
            self.report.killed_workers += 1

    async def _trajectories(self, pool: SandboxPool, image: bytes) -> None:
        while self._done < self._blocks:
            try:
                async with await pool.open([InputImage(IMAGE_PATH, image)]) as session:
                    await self._trajectory(session)
            except SandboxUnavailableError:
                self.report.lost_sessions += 1

    async def _trajectory(self, session: SandboxSession) -> None:
        names = list(BLOCKS)
        weights = [share for share, *_ in BLOCKS.values()]
        good = 0
        for _ in range(self._random.randint(1, 4)):
            name = self._random.choices(names, weights)[0]
            _, code, limit_s, check = BLOCKS[name]
            result = await session.run(COUNT + code, limit_s)
            self._done += 1
            self.report.blocks[name] += 1
            good += result.ok
            if not check(result):
                self.report.wrong.append(f"{name}: {result.status} {result.error}")
            if result.ok and name in ("print", "file", "orphan"):
                if result.stdout != f"{good}\n":
                    self.report.wrong.append(f"{name}: printed {result.stdout!r}, not {good}")


def leftovers(before: set[int]) -> list[str]:
    """Return what is left after the pool was closed, in words."""
    left = [f"process {pid}" for pid in descendants(os.getpid())]
    new = {int(name) for name in os.listdir("/proc/self/fd")} - before
    for descriptor in sorted(new):
        try:
            left.append(f"descriptor {descriptor}: {os.readlink(f'/proc/self/fd/{descriptor}')}")
        except OSError:
            continue  # the one that listed the folder
    for folder in ("/dev/shm", "/tmp"):
        left += [str(p) for p in Path(folder).glob("swift-thyme-sandbox-*") if _is_abandoned(p)]
    left += [f"thread {t.name}" for t in threading.enumerate() if "sandbox" in t.name]
    return left


def _is_abandoned(folder: Path) -> bool:
    """Tell whether nobody holds a worker's folder: those of other pools here are at work."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def growth(samples: list[Sample]) -> float:
    """Return the share by which memory grew from the middle of the run to its end."""

    def total(part: list[Sample]) -> float:
        # The least of several: a sample may fall into a moment with a worker that just started.
        return min(s.own_mib for s in part) + min(s.workers_mib for s in part)

    middle = len(samples) // 2
    return total(samples[-3:]) / total(samples[middle - 1 : middle + 2]) - 1


def show(report: Report) -> None:
    console = Console()
    table = Table("blocks", "seconds", "own MiB", "MiB per worker", "processes", "descriptors")
    for s in report.samples:
        table.add_row(
            str(s.blocks),
            f"{s.seconds:.0f}",
            f"{s.own_mib:.0f}",
            f"{s.workers_mib:.0f}",
            str(s.processes),
            str(s.descriptors),
        )
    console.print(table)
    console.print(", ".join(f"{name} {n}" for name, n in report.blocks.items()))
    console.print(
        f"workers killed {report.killed_workers}, sessions lost with them "
        f"{report.lost_sessions}, wrong results {len(report.wrong)}"
    )
    for line in report.wrong[:10]:
        console.print(f"wrong: {line}", markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=20000)
    parser.add_argument("--kills", type=int, default=40, help="workers that are killed")
    parser.add_argument("--side-by-side", type=int, default=16, help="trajectories at a time")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    # What a first pool opens for good (event-loop and library descriptors) is no leak of a block.
    asyncio.run(Soak(20, 0, 2).run())
    before = {int(name) for name in os.listdir("/proc/self/fd")}
    report = asyncio.run(Soak(arguments.blocks, arguments.kills, arguments.side_by_side).run())
    report.left = leftovers(before)
    show(report)
    grown = growth(report.samples)
    print(f"memory at the end against half-way: {grown:+.1%}")
    print(f"left behind: {', '.join(report.left) or 'nothing'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(report), indent=2))
    too_large = arguments.blocks >= LEAST_BLOCKS and grown > MAX_GROWTH
    return 1 if report.left or report.wrong or too_large else 0


if __name__ == "__main__":
    sys.exit(main())
