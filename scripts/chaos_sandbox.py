"""Kills and stops processes of the sandbox at random, and shows that only their sessions notice.

    python scripts/chaos_sandbox.py [--hits 2000] [--sessions 8] [--json FILE]

Sessions side by side run blocks whose results are known: a counter in the session's state, a crop
now and then, a block that fails and is undone. Beside them SIGKILL and SIGSTOP hit workers,
keepers, runners, encoders and whatever forks sessions. Ends with 1 where a promise is broken:

- no result is ever wrong;
- a session is lost, or reports `killed`, only if a process of its own, or that it was forked from,
  was hit; after `killed` it goes on with its last state or with a fresh one;
- every answer comes within the limit of its block and two seconds;
- no process, folder or descriptor is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from soak_sandbox import IMAGE_PATH, children, descendants, leftovers, make_image

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.sandbox import (
    ExecutionResult,
    InputImage,
    SandboxPool,
    SandboxSession,
    SandboxSettings,
)

LIMIT_S = 3.0
SPARE_S = 2.0
"""How much later than its limit a block may be answered, whatever was hit."""
OPENING_S = 30.0
"""A worker that was hit has to be started again first."""
PATIENCE_S = 90.0
"""After this no answer is expected any more."""
T = TypeVar("T")
NAME = "chaos-"
KEEPER_NAME = "thyme-keeper"
# A process can name itself, which is how a session's processes are known from outside.
MARK = "import ctypes\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"
COUNT = "count = globals().get('count', 0) + 1\nprint(count)\n"
CROP = "cv2.imwrite(f'c{count}.jpg', cv2.imread(image_path)[10:80, 20:90])\nprint(f'c{count}.jpg')"
SHARES = {"count": 0.6, "crop": 0.25, "undone": 0.15}
ROLES = {"worker": 0.02, "template": 0.03, "keeper": 0.1, "runner": 0.5, "other": 0.35}
"""How often which process is hit; `other` are encoders, and runners that ran nothing yet."""


@dataclass
class Report:
    """Everything that was counted."""

    blocks: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    """Signal and role -> how many."""
    excused: Counter[str] = field(default_factory=Counter)
    """What happened to sessions that were hit -> how often."""
    wrong: list[str] = field(default_factory=list)
    unexcused: list[str] = field(default_factory=list)
    latest_s: float = -LIMIT_S
    """The latest answer, in seconds after the limit of what was asked for."""
    late: list[str] = field(default_factory=list)
    """Answers after more than the limit and `SPARE_S`."""
    left: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.wrong or self.unexcused or self.late or self.left)


class Target:
    """A process that may be hit: held so that its number cannot become another process's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.descriptor = os.pidfd_open(pid)

    def hit(self, number: signal.Signals) -> None:
        """Send it a signal, if it still is a descendant of this process."""
        if self.pid in descendants(os.getpid()):
            signal.pidfd_send_signal(self.descriptor, number)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def sessions_below(pid: int) -> set[int]:
    """Return the numbers of the sessions that a process, or a descendant of it, runs."""
    names = [name_of(process) for process in (pid, *descendants(pid))]
    return {int(name.removeprefix(NAME)) for name in names if name.startswith(NAME)}


def by_role() -> dict[str, list[tuple[int, int]]]:
    """Return each process of the sandbox by its role, with the root of what it takes along."""
    found: dict[str, list[tuple[int, int]]] = {role: [] for role in ROLES}

    def visit(pid: int, keeper: int) -> None:
        for child in children(pid):
            name = name_of(child)
            if keeper:
                role = "runner" if name.startswith(NAME) else "other"
                found[role].append((child, keeper))
                visit(child, keeper)
            elif name == KEEPER_NAME:
                found["keeper"].append((child, child))
                visit(child, child)
            else:
                # What is neither a keeper nor below one is what sessions are forked from.
                found["template"].append((child, child))
                visit(child, 0)

    for worker in children(os.getpid()):
        found["worker"].append((worker, worker))
        visit(worker, 0)
    return found


class Seat:
    """What is known of one session: its number, its count, and whether it was hit."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.counts = {0}
        """The values that its counter may have: several where its state may be an older one."""
        self.count_before = 0
        """The value that it had before the last block that succeeded."""
        self.is_hit = False
        self.has_a_name = False
        """Whether its processes can be told from those of others, which its first block does."""

    def start_over(self) -> None:
        """Take on a session that is about to be opened."""
        self.counts, self.count_before = {0}, 0
        self.is_hit = self.has_a_name = False


class Chaos:
    """The run.

    Args:
        hits: Signals to send.
        sessions: Sessions at a time.
        seed: Of what happens when.
    """

    def __init__(self, hits: int, sessions: int, seed: int) -> None:
        self._hits = hits
        self._random = random.Random(seed)
        self._seats = [Seat(number) for number in range(sessions)]
        self._is_over = asyncio.Event()
        self.report = Report()

    async def run(self) -> Report:
        image = InputImage(IMAGE_PATH, make_image())
        async with SandboxPool(SandboxSettings(workers=2, memory_mb=512, processes=32)) as pool:
            tasks = [asyncio.create_task(self._serve(pool, seat, image)) for seat in self._seats]
            await self._hit_all()
            self._is_over.set()
            await asyncio.gather(*tasks)
        return self.report

    # -- hitting -------------------------------------------------------------------------------

    async def _hit_all(self) -> None:
        while sum(self.report.hits.values()) < self._hits:
            await asyncio.sleep(self._random.uniform(0.0, 0.06))
            processes = by_role()
            role = self._random.choices(list(ROLES), list(ROLES.values()))[0]
            if not processes[role]:
                continue
            pid, root = self._random.choice(processes[role])
            number = self._random.choice((signal.SIGKILL, signal.SIGSTOP))
            try:
                target = Target(pid)
            except ProcessLookupError:
                continue
            below = sessions_below(root)
            for seat in self._seats:
                # Whose process it is cannot be said before that session's first block.
                seat.is_hit |= seat.number in below or not seat.has_a_name
            try:
                target.hit(number)
            except ProcessLookupError:
                continue
            finally:
                target.close()
            self.report.hits[f"{number.name} {role}"] += 1

    # -- sessions ------------------------------------------------------------------------------

    async def _serve(self, pool: SandboxPool, seat: Seat, image: InputImage) -> None:
        while not self._is_over.is_set():
            seat.start_over()
            session = await self._open(pool, image)
            if session is None:
                continue
            goes_on = True
            while goes_on and not self._is_over.is_set():
                goes_on = await self._block(session, seat)
                await asyncio.sleep(self._random.uniform(0.0, 0.02))
            await self._answer(session.close(), LIMIT_S)

    async def _open(self, pool: SandboxPool, image: InputImage) -> SandboxSession | None:
        try:
            return await self._answer(pool.open([image]), OPENING_S)
        except SandboxUnavailableError:
            # Its worker was hit before it had a name; the pool makes another.
            self.report.excused["not opened"] += 1
            await asyncio.sleep(0.05)
            return None

    async def _answer(self, asked: Coroutine[Any, Any, T], limit_s: float) -> T | None:
        """Return an answer and note how long it took; None where none comes."""
        start = time.monotonic()
        try:
            return await asyncio.wait_for(asked, PATIENCE_S)
        except asyncio.TimeoutError:
            self.report.unexcused.append(f"no answer for {PATIENCE_S:g} s")
            return None
        finally:
            took = time.monotonic() - start
            self.report.latest_s = max(self.report.latest_s, took - limit_s)
            if took > limit_s + SPARE_S:
                self.report.late.append(f"{asked.__qualname__} took {took:.1f} s")

    async def _block(self, session: SandboxSession, seat: Seat) -> bool:
        """Run one block; tell whether the session goes on."""
        kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        code = MARK.format(name=f"{NAME}{seat.number}") + COUNT
        code += {"count": "", "crop": CROP, "undone": "1 / 0"}[kind]
        try:
            result = await self._answer(session.run(code, LIMIT_S), LIMIT_S)
        except SandboxUnavailableError as error:
            self._excuse(seat, "lost", f"lost: {str(error)[:100]}")
            return False
        if result is None:
            return False
        self.report.blocks += 1
        seat.has_a_name = True
        self._check(result, seat, kind)
        return True

    def _excuse(self, seat: Seat, what: str, text: str) -> None:
        if seat.is_hit:
            self.report.excused[what] += 1
        else:
            self.report.unexcused.append(f"session {seat.number} was not hit and {text}")

    def _check(self, result: ExecutionResult, seat: Seat, kind: str) -> None:
        status = result.status.value
        if status in ("killed", "timeout"):
            # A process that is stopped looks like a program that does not end.
            self._excuse(seat, status, f"ended with {status}: {result.error}")
            seat.counts |= {0, seat.count_before}
            return
        printed = result.stdout.split("\n")[0]
        expected = {str(count + 1) for count in seat.counts}
        as_wanted = status == ("error" if kind == "undone" else "ok")
        images = [image.width for image in result.images]
        if not as_wanted or printed not in expected or images != [70] * (kind == "crop"):
            text = f"{kind}: {status} {result.stdout!r} {images} {result.error}"
            self.report.wrong.append(f"{text[:200]}, counts {seat.counts}, hit {seat.is_hit}")
        if printed.isdigit():
            seat.count_before = int(printed) - 1
            seat.counts = {int(printed) - (kind == "undone")}


def show(report: Report) -> None:
    console = Console(highlight=False)
    hits = ", ".join(f"{name} {n}" for name, n in sorted(report.hits.items()))
    excused = ", ".join(f"{name} {n}" for name, n in sorted(report.excused.items()))
    console.print(f"{report.blocks} blocks; hits: {hits}")
    console.print(f"sessions that were hit: {excused or 'nothing happened to them'}")
    console.print(
        f"wrong results {len(report.wrong)}, losses without a hit {len(report.unexcused)}, "
        f"late answers {len(report.late)}, the latest {report.latest_s:.2f} s after its limit"
    )
    for line in [*report.wrong[:10], *report.unexcused[:10], *report.late[:10]]:
        console.print(f"  {line}", markup=False)
    console.print(f"left behind: {', '.join(report.left[:10]) or 'nothing'}", markup=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hits", type=int, default=2000, help="signals that are sent")
    parser.add_argument("--sessions", type=int, default=8, help="sessions at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    arguments = parser.parse_args()
    # What a first pool opens for good (event-loop and library descriptors) is no leak.
    asyncio.run(Chaos(0, 1, 0).run())
    before = {int(name) for name in os.listdir("/proc/self/fd")}
    report = asyncio.run(Chaos(arguments.hits, arguments.sessions, arguments.seed).run())
    report.left = leftovers(before)
    show(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(report), indent=2))
    return 0 if report.is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
