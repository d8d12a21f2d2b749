"""The contract of all backends: the pool of this host, and a server in a process of its own."""

import asyncio
import dataclasses
import re
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app as thyme
from swift_thyme.core.errors import SandboxUnavailableError, SettingsError
from swift_thyme.sandbox import (
    ExecutionResult,
    InputImage,
    SandboxBackend,
    SandboxPool,
    open_pool,
    render_observation,
)
from swift_thyme.sandbox.remote_pool import RemoteSandboxPool
from tests.conftest import ROOT, python_program
from tests.sandbox.conftest import IMAGE_PATH, jpeg, small_settings
from tests.sandbox.servers import ServerProcess, remote_pool

NEW = "Image.new('RGB', (50, 40), 'red')"


class Program(NamedTuple):
    """Blocks of one session, and how each ends."""

    blocks: tuple[str, ...]
    statuses: tuple[str, ...]
    images: int = 0
    """Images that the last block returns."""
    repairs: tuple[str, ...] = ()
    """Repairs of the last block."""
    compared: int | None = None
    """Characters of the output that are the same in every run; None for all."""


PROGRAMS = {
    "state over blocks": Program(
        (
            "import csv as c\ndef f(): return 5\nx = 1\nopen('f.txt', 'w').write('hi')",
            "print(c.__name__, f(), x, open('f.txt').read())",
        ),
        ("ok", "ok"),
    ),
    "a block that fails is undone": Program(
        (
            "x = [1]\nopen('a', 'w').write('old')",
            "x.append(2)\ny = 1\nopen('a', 'w').write('new')\nprint('said')\n1 / 0",
            "print(x, 'y' in globals(), open('a').read(), sorted(os.listdir()))",
        ),
        ("ok", "error", "ok"),
    ),
    "a printed image": Program(
        (
            "crop = Image.open(image_path).crop((10, 10, 90, 70))\ncrop.save('crop.png')\n"
            "print('one')\nprint('crop.png')\nprint('two')",
        ),
        ("ok",),
        images=1,
        repairs=("printed_base_name",),
    ),
    "a saved image": Program((f"{NEW}.save('a.jpg')\nprint('done')",), ("ok",), images=1),
    "two images, printed the other way round": Program(
        (f"{NEW}.save('b.png')\n{NEW}.resize((30, 60)).save('a.jpg')\nprint('a.jpg\\nb.png')",),
        ("ok",),
        images=2,
        repairs=("printed_base_name",),
    ),
    "a shown image": Program(
        ("cv2.imshow('w', np.zeros((40, 50, 3), np.uint8))\nprint(1)",), ("ok",), images=1
    ),
    "an image that cannot be returned": Program(
        ("Image.new('L', (9000, 2)).save('a.png')",), ("error",)
    ),
    "a repair": Program(
        ("```python\nprint(Counter('aab')['a'])\n```",),
        ("ok",),
        repairs=("strip_fence", "missing_import"),
    ),
    "more than is kept": Program(("print('first')\nprint('x' * 200000)\nprint('last')",), ("ok",)),
    "too much output": Program(
        ("while True: print('x' * 99999)", "print(1)"), ("output_limit", "ok"), compared=20_000
    ),
    "timeout": Program(
        ("x = 1", "x = 2\nprint('said', flush=True)\nwhile True: pass", "print(x)"),
        ("ok", "timeout", "ok"),
    ),
    "memory": Program(("b = bytearray(1 << 40)", "print(1)"), ("memory", "ok")),
    "an error's text": Program(("print(1)\ncv2.resize(None, (1, 1))",), ("error",)),
    "no program": Program(("print(", ""), ("error", "ok")),
    "an exit": Program(("import sys\nprint(1)\nsys.exit(0)", "sys.exit(3)"), ("ok", "error")),
    "killed": Program(("x = 1", "os._exit(0)", "print(x)"), ("ok", "killed", "ok")),
    "the input images": Program(
        (
            "print(image_path, Image.open(image_path).size)\n"
            "print(cv2.imread('/data/images/second.jpg').shape)\n"
            "print(sorted(os.listdir('/data/images')))",
        ),
        ("ok",),
    ),
    "a name that is no Unicode": Program(
        (f"{NEW}.save(os.fsdecode(b'\\xff.png'), 'PNG')\nprint(os.fsdecode(b'\\xff.png'))",),
        ("ok",),
        images=1,
    ),
    "an error that is no Unicode": Program(
        ("raise ValueError(chr(0xD800))", "x = '\ud800'"), ("error", "error")
    ),
    "a program that is too long": Program(("x = '" + "y" * (1 << 20) + "'",), ("error",)),
    "text of many scripts": Program(("print('\u0449\u6f22\U0001f600\\x00\\r')",), ("ok",)),
    "text that looks like tags": Program(
        ("print('</sandbox_output><image><|im_end|>', 1 < 2)",), ("ok",)
    ),
}

INPUTS = [
    InputImage(IMAGE_PATH, jpeg()),
    InputImage("/data/images/second.jpg", jpeg(60, 90)),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server with the limits of the local pool."""
    with ServerProcess(settings=small_settings()) as server:
        yield server


@pytest.fixture(scope="module")
def remote(server: ServerProcess) -> Iterator[RemoteSandboxPool]:
    with remote_pool(server.url) as pool:
        yield pool


@pytest.fixture(params=["local", "remote"])
def backend(request: pytest.FixtureRequest) -> SandboxBackend:
    """Each backend in turn."""
    kind = "pool" if request.param == "local" else "remote"
    backend: SandboxBackend = request.getfixturevalue(kind)
    return backend


def comparable(result: ExecutionResult, most: int | None) -> tuple[object, ...]:
    """Return what must be the same everywhere: all but the time, and chance in cut output."""
    observation = render_observation(result)
    if most is not None:
        return result.status, result.stdout[:most], result.error, observation.text[:most]
    return dataclasses.replace(result, duration_s=0.0), observation


def run_all(backend: SandboxBackend, program: Program) -> list[ExecutionResult]:
    with backend.open_sync(INPUTS) as session:
        limits = [1.0 if status == "timeout" else None for status in program.statuses]
        return [session.run_sync(*block) for block in zip(program.blocks, limits, strict=True)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_backend_gives_the_same(
    pool: SandboxPool, remote: RemoteSandboxPool, name: str
) -> None:
    program = PROGRAMS[name]
    here, there = run_all(pool, program), run_all(remote, program)
    assert tuple(str(result.status) for result in here) == program.statuses, here
    assert len(here[-1].images) == program.images
    assert here[-1].repairs == program.repairs
    for local, elsewhere in zip(here, there, strict=True):
        assert comparable(local, program.compared) == comparable(elsewhere, program.compared)
        assert (elsewhere.duration_s > 0) is (local.duration_s > 0)


async def test_sessions_run_side_by_side(backend: SandboxBackend) -> None:
    sessions = await asyncio.gather(*(backend.open() for _ in range(6)))
    results = await asyncio.gather(*(s.run(f"print({i})") for i, s in enumerate(sessions)))
    assert [r.stdout for r in results] == [f"{i}\n" for i in range(6)]
    await asyncio.gather(*(s.close() for s in sessions))


async def test_it_runs_programs(backend: SandboxBackend) -> None:
    backend.start()
    await backend.check()


async def test_blocks_asked_for_at_once_run_one_after_the_other(backend: SandboxBackend) -> None:
    async with await backend.open() as session:
        codes = ["x = 1", *["x = x * 2 + 1"] * 6, "print(x)"]
        results = await asyncio.gather(*(session.run(code) for code in codes))
    assert results[-1].stdout == "127\n"


def test_threads_with_event_loops_of_their_own_share_a_pool(backend: SandboxBackend) -> None:
    found: list[str] = []

    async def once(number: int) -> None:
        async with await backend.open() as session:
            found.append((await session.run(f"print({number})")).stdout.strip())

    threads = [threading.Thread(target=lambda n=n: asyncio.run(once(n))) for n in range(4)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == ["0", "1", "2", "3"]


async def test_a_caller_that_gives_up_does_not_stop_its_block(backend: SandboxBackend) -> None:
    async with await backend.open() as session:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.run("import time; time.sleep(0.5); x = 1"), 0.1)
        assert (await session.run("print(x)")).stdout == "1\n"


def test_a_loop_can_end_while_its_block_runs(backend: SandboxBackend) -> None:
    with backend.open_sync() as session:
        loop = asyncio.new_event_loop()
        block = loop.create_task(session.run("import time; time.sleep(0.3); x = 1"))
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()
        assert session.run_sync("print(x)").stdout == "1\n"
        block._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_closed_session_refuses_and_closing_twice_is_fine(backend: SandboxBackend) -> None:
    session = backend.open_sync()
    done = session.close_later()
    assert session.close_later() is done
    with pytest.raises(SandboxUnavailableError, match="closed"):
        session.run_sync("1")
    done.result(30)
    session.close_sync()
    asyncio.run(session.close())


def test_closing_cuts_a_block_short(backend: SandboxBackend) -> None:
    session = backend.open_sync()
    session.run_sync("import time")
    failed: list[Exception] = []

    def run() -> None:
        try:
            session.run_sync("time.sleep(600)", 900)
        except SandboxUnavailableError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    session.close_sync()
    thread.join(60)
    assert len(failed) == 1


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (InputImage("a.jpg", b""), "absolute"),
        (InputImage("/data/../a.jpg", b""), "normal path"),
        (InputImage("/" + "a" * 5000, b""), "characters"),
        (InputImage("/usr/a.jpg", jpeg()), "placed"),
        (InputImage("/data/\udcff.jpg", jpeg()), "surrogates not allowed"),
    ],
)
def test_an_image_that_cannot_be_placed_is_the_callers_mistake(
    backend: SandboxBackend, image: InputImage, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        backend.open_sync([image])


def test_files_are_read_on_the_callers_host(backend: SandboxBackend, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(70, 80))
    with backend.open_sync([InputImage("/data/a.jpg", file)]) as session:
        assert session.run_sync("print(Image.open(image_path).size)").stdout == "(70, 80)\n"
    with pytest.raises(SandboxUnavailableError, match=r"an image cannot be read: .*missing"):
        backend.open_sync([InputImage("/data/a.jpg", tmp_path / "missing.jpg")])


@pytest.mark.parametrize("limit_s", [0, -1, 3601, float("nan")])
async def test_a_limit_that_cannot_be_used_is_the_callers_mistake(
    backend: SandboxBackend, limit_s: float
) -> None:
    async with await backend.open() as session:
        with pytest.raises(ValueError, match="timeout_s"):
            await session.run("print(1)", limit_s)
        assert (await session.run("print(1)")).ok


def make_local(server: ServerProcess) -> SandboxBackend:
    return SandboxPool(small_settings(preload=()))


def make_remote(server: ServerProcess) -> SandboxBackend:
    return remote_pool(server.url)


@pytest.mark.parametrize("make", [make_local, make_remote])
def test_a_closed_pool_refuses_and_its_sessions_are_closed(
    server: ServerProcess, make: Callable[[ServerProcess], SandboxBackend]
) -> None:
    backend = make(server)
    with backend:
        session = backend.open_sync()
        assert session.run_sync("print(1)").ok
    backend.close()
    with pytest.raises(SandboxUnavailableError, match="closed"):
        backend.open_sync()
    with pytest.raises(SandboxUnavailableError, match="closed"):
        session.run_sync("print(1)")
    session.close_sync()


FORKED = """
import os, sys
from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.sandbox import open_pool
from tests.sandbox.conftest import small_settings
pool = open_pool(small_settings(preload=()))
with pool, pool.open_sync() as session:
    session.run_sync("x = 1")
    child = os.fork()
    if child == 0:
        with pool.open_sync() as other:
            assert other.run_sync("print('x' in globals())").stdout == "False\\n"
        try:
            session.run_sync("x = 2")
        except SandboxUnavailableError:
            pool.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(session.run_sync("print(x)").stdout)
"""


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_forked_process_begins_anew(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "remote":
        monkeypatch.setenv("THYME_SANDBOX_URL", server.url)
    run = subprocess.run(
        python_program("-c", textwrap.dedent(FORKED)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.strip() == "1", run.stderr


def test_the_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_pool(), SandboxPool)
    monkeypatch.setenv("THYME_SANDBOX_URL", " http://a:8100/, ,http://b:8100,http://a:8100 ")
    pool = open_pool()
    assert isinstance(pool, RemoteSandboxPool)
    assert pool._remote.urls == ("http://a:8100", "http://b:8100")
    monkeypatch.setenv("THYME_SANDBOX_URL", "http://user:secret@a")
    with pytest.raises(SettingsError, match="THYME_SANDBOX_TOKEN") as raised:
        open_pool()
    assert "secret" not in str(raised.value)


def test_every_caller_lets_the_factory_choose() -> None:
    makers = {
        str(path.relative_to(ROOT / "swift_thyme"))
        for path in (ROOT / "swift_thyme").rglob("*.py")
        if re.search(r"(?<!class )\b\w*SandboxPool\(", path.read_text(encoding="utf-8"))
    }
    # The server is the end of the way: what it runs, it runs itself.
    assert makers == {"sandbox/backends.py", "commands/sandbox_server.py"}


def test_commands_run_code_at_the_server(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text("print(image_path, Image.open(image_path).size)")
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 90))
    command = ["sandbox", "--image", str(tmp_path / "a.jpg"), str(tmp_path / "a.py")]
    here = CliRunner().invoke(thyme, command)
    monkeypatch.setenv("THYME_SANDBOX_URL", server.url)
    there = CliRunner().invoke(thyme, command)
    assert (here.exit_code, there.exit_code) == (0, 0)
    assert there.output == here.output
    assert str(tmp_path / "a.jpg") in there.output
    monkeypatch.setenv("THYME_SANDBOX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("THYME_SANDBOX_OPEN_S", "0.5")
    lost = CliRunner().invoke(thyme, command)
    assert lost.exit_code == 2
    assert "cannot be asked" in lost.output
