"""Runs hostile programs beside an innocent session, and says what each of them broke.

    python -m tests.sandbox.rule_driver [--disable LAYER]... [--show] [NAME...]

With names, prints a line for each. Without, takes names on standard input and answers each with a
line of JSON, a list of what was broken: tests drive it so, in a surrounding (`surroundings`) that
bounds what a program which gets out can do. It must not run anywhere else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.sandbox import (
    ExecutionResult,
    InputImage,
    SandboxPool,
    SandboxSession,
    SandboxSettings,
    render_observation,
)
from tests.sandbox.rule_programs import ROWS, Row
from tests.sandbox.rule_programs.guarantees import GUARANTEES
from tests.sandbox.surroundings import MEMORY_FILE

WORDS = ("CANARY-FILE", "CANARY-OTHER", "HACKED", "RAN ON", "CHANGED", "LEAK")
SETTINGS: dict[str, Any] = {"workers": 1, "memory_mb": 256, "disk_mb": 64}
SLACK_S = 2.0
"""Seconds that an answer may be late: machines that test are busy."""
USUAL_PRINT_S = 0.02
"""A small block of a machine on which `SLACK_S` is enough."""
MAX_OBSERVATION_CHARS = 160_000
COLOUR = (10, 200, 30)
"""The host's picture is of this colour, and no other one."""
MAX_GROWTH_MIB = 200
MIB = 1 << 20
ALL_ROWS = {**ROWS, **{name: row for rows in GUARANTEES.values() for name, row in rows.items()}}


def picture(text: str, colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """Return a PNG of one colour that says something in its remarks."""
    info = PngInfo()
    info.add_text("label", text)
    file = io.BytesIO()
    Image.new("RGB", (320, 240), colour).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def status_mib(name: str) -> int:
    """Return a line of this process's status file, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) >> 10


def children(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return [*found, *(pid for child in found for pid in children(child))]


def standing(pid: int) -> tuple[object, ...]:
    """Return what a program could change about a process: priorities, limits, affinity."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    wanted = ("Max address space", "Max open files", "Max processes", "Max cpu time")
    return (
        os.getpriority(os.PRIO_PROCESS, pid),
        os.sched_getscheduler(pid),
        Path(f"/proc/{pid}/oom_score_adj").read_text(),
        Path(f"/proc/{pid}/comm").read_text(),
        *(line for line in limits.splitlines() if line.startswith(wanted)),
    )


class Watch:
    """Measures the memory of everything that runs here while a row does."""

    def __init__(self) -> None:
        self._file = Path(os.environ[MEMORY_FILE])
        Path("/proc/self/clear_refs").write_text("5")  # begin to measure this process's peak
        self._own = status_mib("VmHWM")
        self._base = self._peak = self._used()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _used(self) -> int:
        return int(self._file.read_text()) // MIB

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self._peak = max(self._peak, self._used())

    def end(self) -> tuple[int, int]:
        """Return by how many MiB everything grew, and this process alone."""
        self._ended.set()
        self._thread.join()
        return self._peak - self._base, status_mib("VmHWM") - self._own


def slack_s(pool: SandboxPool) -> float:
    """Return by how many seconds an answer may be late on this machine as it is now."""
    times = []
    with pool.open_sync() as session:
        for _ in range(7):
            start = time.monotonic()
            session.run_sync("print(1)")
            times.append(time.monotonic() - start)
    return SLACK_S * min(6.0, max(1.0, sorted(times)[3] / USUAL_PRINT_S))


class Driver:
    """Pools, one for each kind of settings, that serve one row after the other.

    Args:
        disable: Isolation layers to leave out.
        show: Whether to write every result to standard error.
    """

    def __init__(self, disable: tuple[str, ...], show: bool) -> None:
        self._disable = disable
        self._show = show
        self._pools: dict[str, SandboxPool] = {}
        self._slack_s = 0.0

    def _pool(self, row: Row) -> SandboxPool:
        key = repr(row.settings)
        if key not in self._pools:
            for name in list(self._pools):
                self._pools.pop(name).close()
            settings = SandboxSettings(**{**SETTINGS, **row.settings, "disable": self._disable})
            pool = self._pools[key] = SandboxPool(settings)
            pool.start()
            self._slack_s = max(self._slack_s, slack_s(pool))
        return self._pools[key]

    def close(self) -> None:
        """End all pools."""
        for pool in self._pools.values():
            pool.close()

    def run(self, name: str) -> list[str]:
        """Run a row and return what it broke, in words."""
        host, row = Host(), ALL_ROWS[name]
        try:
            pool = self._pool(row)
            broken = _Case(pool, row, host.places, self._slack_s, self._show).run()
        except SandboxUnavailableError as error:
            broken = [f"no session: {str(error)[:200]}"]
        broken += host.broken()
        if broken:
            # What one row did to a worker is no fault of the next.
            for key in list(self._pools):
                self._pools.pop(key).close()
        return list(dict.fromkeys(broken))


class Host:
    """What a program must not reach: files, listening sockets, and this process by a signal."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="canary-", dir="/var/tmp"))
        self._signals: list[int] = []
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO, signal.SIGTERM):
            signal.signal(number, lambda number, _: self._signals.append(number))
        (self.folder / "canary.txt").write_text("CANARY-FILE-CONTENT")
        (self.folder / "canary.png").write_bytes(picture("CANARY-FILE-PICTURE", COLOUR))
        # Everybody may do everything here: nothing but the sandbox stands in the way.
        for path in self.folder.iterdir():
            path.chmod(0o666)
        self.folder.chmod(0o777)
        self._listeners = [socket.socket(kind) for kind in (socket.AF_INET, socket.AF_UNIX)]
        self._listeners += [socket.socket(socket.AF_UNIX)]
        name = f"thyme-{self.folder.name}"
        places = (("127.0.0.1", 0), f"\0{name}", str(self.folder / "listener"))
        for listener, place in zip(self._listeners, places, strict=True):
            listener.bind(place)
            listener.listen()
            listener.setblocking(False)
        port = self._listeners[0].getsockname()[1]
        self.places = {"DIR": self.folder, "PID": os.getpid(), "PORT": port, "SOCKET": name}
        self._before = self._state()

    def _state(self) -> list[object]:
        found: list[object] = []
        if not self.folder.exists():
            return found
        for path in (self.folder, *sorted(self.folder.iterdir())):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found.append((path.name, info.st_mode, info.st_uid, info.st_mtime_ns, content))
        return found

    def broken(self) -> list[str]:
        """Return what was reached, in words, and clean up."""
        found = []
        for was, now in zip(self._before, self._state(), strict=False):
            if was != now:
                found.append(f"the host's file was changed: {was!r} -> {now!r}"[:160])
        if len(self._state()) != len(self._before):
            found.append("files were made in the host's folder")
        for listener in self._listeners:
            with listener, contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append("a connection was made")
        if self._signals:
            found.append(f"signals came: {sorted(set(self._signals))}")
        shutil.rmtree(self.folder, ignore_errors=True)
        return found


class _Case:
    def __init__(
        self, pool: SandboxPool, row: Row, host: dict[str, object], slack_s: float, show: bool
    ) -> None:
        self._pool = pool
        self._row = row
        self._host = host
        self._slack_s = slack_s
        self._show = show
        self._broken: list[str] = []

    def run(self) -> list[str]:
        pool = self._pool
        # The innocent session comes first, so that all of its secrets are there to be found.
        source = InputImage("/data/CANARY-OTHER-PATH/x.png", picture("CANARY-OTHER-IMAGE"))
        with pool.open_sync([source]) as other:
            other.run_sync("x = 1\nraise ValueError('CANARY-OTHER-ERROR')")
            pool.open_sync().close_sync()  # the spare one, which was made before
            with pool.open_sync([InputImage("/data/images/a.png", picture("mine"))]) as mine:
                time.sleep(0.2)
                processes = children(os.getpid())
                before = {pid: standing(pid) for pid in (os.getpid(), os.getppid(), processes[0])}
                watch = Watch()
                self._ask_all(mine, other)
                grown, own = watch.end()
                self._check_standing(before)
        most = 2 * (pool.settings.memory_mb + pool.settings.disk_mb) + 400
        if grown > most:
            self._broken.append(f"{grown} MiB more were in use, of {most}")
        if own > MAX_GROWTH_MIB:
            self._broken.append(f"the trainer's process grew by {own} MiB")
        self._check_processes(len(processes))
        return self._broken

    def _ask_all(self, mine: SandboxSession, other: SandboxSession) -> None:
        blocks = self._row.blocks(**self._host)
        for number, block in enumerate([*blocks, "print(6*7)"]):
            last = number == len(blocks)
            who = "the block after it" if last else f"block {number + 1}"
            threads = [
                threading.Thread(target=self._attack, args=(mine, block, who, number)),
                threading.Thread(target=self._ask, args=(other, "print(6*7)", "the neighbour")),
            ]
            threads[0].start()
            time.sleep(0.1)
            threads[1].start()
            for thread in threads:
                thread.join()
            time.sleep(self._row.pause_s)

    def _attack(self, session: SandboxSession, block: str, who: str, number: int) -> None:
        if who == "the block after it":
            self._ask(session, block, who)
            return
        result = self._answer(session, block, who)
        if result is None:
            return
        ends = self._row.ends[number] if number < len(self._row.ends) else ""
        if ends and result.status.value not in ends.split("|"):
            error = (result.error or "")[:80]
            self._broken.append(f"{who} ended with {result.status.value}: {error}")
        self._check_text(result, who)

    def _ask(self, session: SandboxSession, code: str, who: str) -> None:
        result = self._answer(session, code, who)
        if who != "the neighbour" and result is not None and result.stdout == "42\n":
            # An attack that cost its session the names of before: this block is told so, and the
            # one after it runs as ever.
            if result.status is ExecutionStatus.KILLED and str(result.error).endswith("are lost"):
                result = self._answer(session, code, f"{who}, again")
        if result is not None and (result.stdout != "42\n" or not result.ok or result.images):
            text = f"{result.status.value} {result.stdout[:50]!r} {(result.error or '')[:60]}"
            self._broken.append(f"{who}: {text}")

    def _answer(self, session: SandboxSession, code: str, who: str) -> ExecutionResult | None:
        start = time.monotonic()
        try:
            result = session.run_sync(code, self._row.limit_s)
        except SandboxUnavailableError as error:
            self._broken.append(f"{who} was lost: {str(error)[:90]}")
            return None
        took = time.monotonic() - start
        if took > self._row.limit_s + self._slack_s:
            # Other tests may have made the machine busy since the row began.
            self._slack_s = max(self._slack_s, slack_s(self._pool))
        if took > self._row.limit_s + self._slack_s:
            self._broken.append(f"{who} was answered after {took:.1f} s")
        if self._show:
            line = f"    {who}: {result.status.value} {took:.2f} s {result.stdout[:200]!r}"
            sys.stderr.write(f"{line} {(result.error or '')[:160]!r} {len(result.images)} images\n")
        return result

    def _check_text(self, result: ExecutionResult, who: str) -> None:
        observation = render_observation(result).text
        names = [image.name for image in result.images]
        told = [result.stdout, result.error, observation, names, list(result.repairs)]
        everything = json.dumps(told) + repr(told)
        self._broken += [f"{who} says {word}" for word in WORDS if word in everything]
        for image in result.images:
            pixel = Image.open(io.BytesIO(image.data)).convert("RGB").getpixel((9, 9))
            if b"CANARY-" in image.data or pixel == COLOUR:
                self._broken.append(f"{who} returns the host's or the neighbour's picture")
        if len(observation) > MAX_OBSERVATION_CHARS:
            self._broken.append(f"{who}: an observation of {len(observation)} characters")
        if "</sandbox_output>" in observation.removesuffix("</sandbox_output>"):
            self._broken.append(f"{who}: an observation that closes itself")
        try:
            "".join([observation, result.error or "", *names]).encode()
        except UnicodeEncodeError:
            self._broken.append(f"{who}: text that cannot be encoded")
        if any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for name in names for c in name):
            self._broken.append(f"{who}: control characters in the name of a picture")
        if len(result.images) > self._pool.settings.images:
            self._broken.append(f"{who}: {len(result.images)} pictures")

    def _check_standing(self, before: dict[int, tuple[object, ...]]) -> None:
        for pid, was in before.items():
            try:
                now = standing(pid)
            except (OSError, IndexError):
                self._broken.append("a process of the pool is gone")
                continue
            changed = [f"{a!r} -> {b!r}" for a, b in zip(was, now, strict=True) if a != b]
            if changed:
                self._broken.append(f"a process outside was changed: {changed[0]}")

    def _check_processes(self, most: int) -> None:
        """Both sessions are closed: what is left belongs to none."""
        end = time.monotonic() + 3
        while time.monotonic() < end:
            if len(children(os.getpid())) <= most:
                return
            time.sleep(0.05)
        self._broken.append(f"{len(children(os.getpid())) - most} processes are left")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--disable", action="append", default=[])
    parser.add_argument("--show", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    if MEMORY_FILE not in os.environ:
        parser.error("run it with python -m tests.sandbox.surroundings NAME -- ...")
    logging.disable(logging.CRITICAL)
    driver = Driver(tuple(arguments.disable), arguments.show)
    contained = 0
    try:
        for name in arguments.names:
            start = time.monotonic()
            broken = driver.run(name)
            contained += not broken
            took = time.monotonic() - start
            text = "; ".join(broken) or "contained"
            sys.stdout.write(f"{name} ({took:.0f} s): {text}\n")
            sys.stdout.flush()
        for line in () if arguments.names else sys.stdin:
            sys.stdout.write(json.dumps(driver.run(line.strip())) + "\n")
            sys.stdout.flush()
    finally:
        driver.close()
    return int(contained < len(arguments.names))


if __name__ == "__main__":
    sys.exit(main())
