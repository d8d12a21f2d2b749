"""Every command in the pages is run: here, by another test, or it says why not.

Blocks are run as they stand, in a folder that has the checkout's files and small data of the
testbed. Ports are replaced by free ones. What a line is said to print (`# -> text`) is compared.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.conftest import ROOT, cpu_environment, free_port
from tests.docs.blocks import PAGES, PYTHON, Block, Command, Treatment, blocks_of
from tests.docs.folders import make_folder

BLOCKS = {page: blocks_of(page) for page in PAGES}
LIMIT_S = 400
"""Seconds after which a block is taken for hanging."""
ENGINE = re.compile(
    r"\bswift (rlhf|sft|rollout)\b|\bthyme (ask|eval|serve)\b|\bvllm serve\b|\bLLM\("
)
"""In blocks that start a trainer or an engine, which takes a quarter of a minute or more."""
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}|(?<=--port )\d{4,5}")
_PRINTS = re.compile(r"#\s*->\s*(.+?)\s*$", re.MULTILINE)


def commands() -> Iterator[tuple[Block, Command]]:
    for blocks in BLOCKS.values():
        for block in blocks:
            for command in block.commands:
                yield block, command


def test_a_command_that_is_not_run_says_why() -> None:
    silent = [
        b.place for b, c in commands() if c.treatment is Treatment.NOT_RUN and len(c.word) < 8
    ]
    assert silent == []


def test_a_test_that_is_said_to_run_a_command_exists() -> None:
    missing = []
    for block, command in commands():
        if command.treatment is Treatment.RUN_BY:
            file, _, name = command.word.partition("::")
            path = ROOT / file
            found = path.is_file() and re.search(rf"\bdef {name}\(", path.read_text("utf-8"))
            if not name.startswith("test_") or not found:
                missing.append(f"{block.place}: {command.word}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_is_run_as_a_whole_or_not_at_all(page: Path) -> None:
    for block in BLOCKS[page]:
        kinds = {command.treatment is Treatment.RUN for command in block.commands}
        assert len(kinds) == 1, f"{block.place}: split the block, or put a comment above it"


def test_files_and_servers_have_what_they_need() -> None:
    for blocks in BLOCKS.values():
        for block, after in zip_longest(blocks, blocks[1:]):
            if block.treatment is Treatment.FILE:
                assert re.fullmatch(r"[\w./-]+", block.word), block.place
            if block.treatment is Treatment.SERVER:
                assert after is not None and after.treatment is Treatment.RUN, block.place
                assert _PORT.search(block.text), f"{block.place}: no --port to wait for"


def test_the_pages_have_commands_and_each_is_accounted_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = dict.fromkeys(Treatment, 0)
    for _, command in commands():
        counts[command.treatment] += 1
    here = counts[Treatment.RUN] + counts[Treatment.SERVER]
    with capsys.disabled():
        print(  # noqa: T201 - the figures that a reader of the log looks for
            f"\ncommands run {here}, run elsewhere {counts[Treatment.RUN_BY]}, "
            f"marked {counts[Treatment.NOT_RUN]}"
        )
    assert here >= 10


def _cases() -> Iterator[object]:
    for blocks in BLOCKS.values():
        server: Block | None = None
        for block in blocks:
            if block.commands[0].treatment is Treatment.RUN:
                marks = [pytest.mark.slow]
                if ENGINE.search(block.text + (server.text if server else "")):
                    marks.append(pytest.mark.ci)
                yield pytest.param(block, server, id=block.place, marks=marks)
            server = block if block.treatment is Treatment.SERVER else None


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the folder in which the commands of a page run, once."""
    made: dict[str, Path] = {}

    def folder(page: str) -> Path:
        if page not in made:
            made[page] = make_folder(tmp_path_factory.mktemp("page"), BLOCKS[ROOT / page])
        return made[page]

    return folder


@pytest.mark.parametrize(("block", "server"), list(_cases()))
def test_the_commands_run(
    block: Block, server: Block | None, folder_of: Callable[[str], Path]
) -> None:
    folder, ports = folder_of(block.page), {}
    with running(server, folder, ports):
        run = subprocess.Popen(
            argv_of(block, ports),
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = run.communicate(timeout=LIMIT_S)
        finally:
            end_group(run)
    assert run.returncode == 0, f"{block.place}\n{output[-2000:]}\n{errors[-3000:]}"
    at = 0
    for wanted in _PRINTS.findall(block.text):
        found = output.find(wanted, at)
        assert found >= 0, f"{block.place} does not print {wanted!r}, but:\n{output[-2000:]}"
        at = found + len(wanted)


def argv_of(block: Block, ports: dict[str, str]) -> list[str]:
    """Return the command line that runs a block.

    Args:
        block: Of a shell, or a Python program.
        ports: The free port that stands for each port of a page; more are added.
    """

    def free(found: re.Match[str]) -> str:
        return ports.setdefault(found[0], str(free_port()))

    text = _PORT.sub(free, block.text)
    if block.language in PYTHON:
        return [sys.executable, "-c", text]
    if block.language == "console":
        text = "\n".join(block.lines)
    return ["bash", "-euo", "pipefail", "-c", text]


def environment() -> dict[str, str]:
    """Return the variables of a user in a checkout whose environment is activated."""
    variables = cpu_environment(PYTHONPATH=str(ROOT), NO_PROXY="127.0.0.1")
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    return variables


@contextmanager
def running(server: Block | None, folder: Path, ports: dict[str, str]) -> Iterator[None]:
    """Run a server until this is left; on entering, wait until it listens."""
    if server is None:
        yield
        return
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            argv_of(server, ports),
            cwd=folder,
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        (port,) = ports.values()
        end = time.monotonic() + LIMIT_S
        while not listens(int(port)):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.3)
        yield
    finally:
        end_group(process)


def listens(port: int) -> bool:
    """Tell whether somebody takes connections at a port of this machine."""
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex(("127.0.0.1", port)) == 0


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
