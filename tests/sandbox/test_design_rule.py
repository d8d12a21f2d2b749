"""Hostile programs of our own, made from the rule by which the sandbox is built.

Nothing that handles a session's files, messages or pictures has more rights than the session.
Sessions are forked from a process that never sees a request. Every byte that comes back has a cap
and a type. Every wait has a deadline that belongs to the session that caused it. A commit, an undo,
an encoding and an opening count as the session's own time and memory. Hostile behaviour ends in a
status of the block and never loses the session, at worst its state.

Each program runs beside an innocent session of the same worker, in surroundings that bound what it
could do if it got out; `rule_driver` says what it must not have done.
"""

import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, Queue
from threading import Thread

import pytest

from tests.conftest import python_program
from tests.sandbox.rule_programs import ROWS, ROWS_OF_LAYERS, ROWS_OF_RIGHTS
from tests.sandbox.surroundings import (
    ROOT,
    UNAVAILABLE,
    UnavailableError,
    command_in,
    environment,
)

LONGEST_S = 180
"""After this a row, which takes seconds, is taken for hanging."""
DRIVERS = 2

KINDS = {
    "all layers": ("host-root", ()),
    "no namespaces": ("host-root", ("--disable", "namespaces")),
    "docker as root": ("docker-root", ()),
    "docker as a user": ("docker-user", ()),
}
UNCOUNTED = ("memory_in_files_without_a_name",)
"""What neither namespaces nor a control group count, see docs/sandbox.md (Without namespaces)."""
PROGRAMS = {
    "all layers": ROWS,
    "no namespaces": ROWS_OF_LAYERS,
    "docker as root": [name for name in ROWS_OF_RIGHTS if name not in UNCOUNTED],
    "docker as a user": [name for name in ROWS_OF_LAYERS if name not in UNCOUNTED],
}
"""Programs for which it makes a difference; each takes seconds for its limits and pauses."""


class Driver:
    """A driver in a surrounding that runs one row after the other."""

    def __init__(self, surrounding: str, options: tuple[str, ...]) -> None:
        driver = python_program("-m", "tests.sandbox.rule_driver", *options)
        self._process = subprocess.Popen(
            command_in(surrounding, driver),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said = ""
        self._lines: Queue[str] = Queue()
        self._readers = [
            Thread(target=self._read_answers, daemon=True),
            Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = (self._said + line)[-3000:]

    @property
    def is_running(self) -> bool:
        """Whether it can take another row."""
        return self._process.poll() is None

    def run(self, name: str) -> list[str]:
        """Return what a row broke.

        Raises:
            UnavailableError: The surrounding cannot be built here.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=LONGEST_S)
        except Empty:
            self.close()
            return ["the driver hangs"]
        except BrokenPipeError:
            line = ""
        if line:
            broken: list[str] = json.loads(line)
            return broken
        self.close()
        if self._process.returncode == UNAVAILABLE:
            raise UnavailableError(self._said.strip()[-300:])
        return [f"the driver ended with {self._process.returncode}: {self._said[-600:]}"]

    def close(self) -> None:
        """End everything in the surrounding."""
        self._process.terminate()
        self._process.wait()
        for reader in self._readers:
            reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


class Runs:
    """The rows of one kind, run by some drivers side by side: a row waits most of its time."""

    def __init__(self, kind: str, names: list[str]) -> None:
        self._kind = kind
        self._names: Queue[str] = Queue()
        self._found: dict[str, Future[list[str]]] = {name: Future() for name in names}
        for name in names:
            self._names.put(name)
        self._ended = False
        self._threads = [Thread(target=self._work) for _ in range(DRIVERS)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        driver: Driver | None = None
        while not self._ended:
            try:
                name = self._names.get_nowait()
            except Empty:
                break
            if driver is None or not driver.is_running:
                driver = Driver(*KINDS[self._kind])
            try:
                self._found[name].set_result(driver.run(name))
            except UnavailableError as error:
                self._found[name].set_exception(error)
        if driver is not None:
            driver.close()

    def result(self, name: str) -> list[str]:
        """Return what a row broke, once it is known."""
        try:
            return self._found[name].result(len(self._found) * LONGEST_S)
        except UnavailableError as error:
            pytest.skip(str(error))

    def close(self) -> None:
        """Wait for the rows that run, and leave out the others."""
        self._ended = True
        for thread in self._threads:
            thread.join()


def _cases() -> list[object]:
    """Each program with each kind of layers that makes a difference to it."""
    cases = []
    for kind in KINDS:
        marks = () if kind == "all layers" else (pytest.mark.ci,)
        cases += [pytest.param(kind, name, marks=marks) for name in PROGRAMS[kind]]
    return cases


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Runs]]:
    """Give the rows of a kind that this run of the tests selects; they begin when asked for."""
    begun: dict[str, Runs] = {}

    def of_kind(kind: str) -> Runs:
        if kind not in begun:
            cases = [getattr(item, "callspec", None) for item in request.session.items]
            params = [case.params for case in cases if case is not None]
            begun[kind] = Runs(kind, [p["name"] for p in params if p.get("kind") == kind])
        return begun[kind]

    yield of_kind
    for one in begun.values():
        one.close()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="programs make calls by number")
@pytest.mark.parametrize(("kind", "name"), _cases())
def test_the_program_keeps_to_its_session(
    runs: Callable[[str], Runs], kind: str, name: str
) -> None:
    assert runs(kind).result(name) == []


def test_every_program_can_be_read() -> None:
    for name, row in ROWS.items():
        blocks = row.blocks(DIR="/canary", PID=1, PORT=80, SOCKET="canary")
        for block in blocks:
            compile(block, name, "exec")
        assert len(row.ends) <= len(blocks)
