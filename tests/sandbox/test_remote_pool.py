"""What a remote pool does when servers, networks and clients fail: never text, never a score."""

import asyncio
import gc
import signal
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, ExecutionStatus
from swift_thyme.sandbox.frames import unpack
from swift_thyme.sandbox.loop_thread import LoopThread
from swift_thyme.sandbox.message_codec import decode_frame, encode_frame
from swift_thyme.sandbox.messages import BlockDone, Done, Failed, FailureKind, OpenSession, RunBlock
from swift_thyme.sandbox.remote_protocol import FRAME_TYPE
from swift_thyme.sandbox.remote_server import HttpServer
from swift_thyme.sandbox.remote_settings import RemoteSettings
from tests.conftest import ROOT, free_port, python_program
from tests.sandbox.servers import PATIENCE_S, ServerProcess, remote_pool, wait_until

LONG = "import time\ntime.sleep(600)"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server that no test ends."""
    with ServerProcess() as server:
        yield server


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


# -- real servers ----------------------------------------------------------------------------------


def test_a_server_killed_while_a_block_runs_is_our_failure(threads: ThreadPoolExecutor) -> None:
    with ServerProcess() as server, remote_pool(server.url, open_s=1.0) as pool:
        session, idle = pool.open_sync(), pool.open_sync()
        block = threads.submit(session.run_sync, LONG, 900)
        time.sleep(0.5)
        server.kill()
        with pytest.raises(SandboxUnavailableError, match="cannot be asked"):
            block.result(PATIENCE_S)
        with pytest.raises(SandboxUnavailableError, match="lost"):
            session.run_sync("print(1)")
        with pytest.raises(SandboxUnavailableError):
            idle.run_sync("print(1)")
        with pytest.raises(SandboxUnavailableError, match="within 1 s"):
            pool.open_sync()
        session.close_sync()
        idle.close_sync()


def test_a_server_that_comes_back_has_new_sessions_and_not_the_old_ones(
    threads: ThreadPoolExecutor,
) -> None:
    port = free_port()
    with ServerProcess(port=port) as server, remote_pool(server.url) as pool:
        old = pool.open_sync()
        old.run_sync("x = 1")
        server.kill()
        # Asked for while there is no server, it is there as soon as one is.
        opening = threads.submit(pool.open_sync)
        with ServerProcess(port=port):
            with opening.result(PATIENCE_S) as new:
                assert new.run_sync("print('x' in globals())").stdout == "False\n"
            with pytest.raises(SandboxUnavailableError, match="no such session"):
                old.run_sync("print(x)")
            with pytest.raises(SandboxUnavailableError, match="was lost"):
                old.run_sync("print(x)")


def test_a_server_that_is_stopped_does_not_hold_a_block_up_for_ever(
    threads: ThreadPoolExecutor,
) -> None:
    with ServerProcess() as server, remote_pool(server.url, grace_s=0.5) as pool:
        session = pool.open_sync()
        server.process.send_signal(signal.SIGSTOP)
        block = threads.submit(session.run_sync, "print(1)", 0.5)
        with pytest.raises(SandboxUnavailableError, match="no answer within 1 s"):
            block.result(PATIENCE_S)
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("token", [None, "another"])
def test_without_the_token_nothing_runs(token: str | None) -> None:
    with ServerProcess(token="secret") as server:
        started = time.monotonic()
        pool = remote_pool(server.url, token=token)
        with pytest.raises(SandboxUnavailableError, match=r"401 .*THYME_SANDBOX_TOKEN") as raised:
            pool.open_sync()
        assert "secret" not in str(raised.value)
        if token is not None:
            with pytest.raises(SandboxUnavailableError, match="401"):
                pool.start()
        # At once: trying again would not help.
        assert time.monotonic() - started < 30
        pool.close()
        with remote_pool(server.url, token="secret") as pool, pool.open_sync() as session:
            assert session.run_sync("print(1)").stdout == "1\n"


def test_an_idle_session_is_closed_and_one_with_a_block_is_not(
    threads: ThreadPoolExecutor,
) -> None:
    with ServerProcess("--idle-s", "1") as server, remote_pool(server.url) as pool:
        idle, busy = pool.open_sync(), pool.open_sync()
        block = threads.submit(busy.run_sync, "import time\ntime.sleep(3)\nprint(1)", 20)
        wait_until(lambda: server.sessions() == 1)
        assert not block.done()
        assert block.result(PATIENCE_S).stdout == "1\n"
        with pytest.raises(SandboxUnavailableError, match="no such session"):
            idle.run_sync("print(1)")
        wait_until(lambda: server.sessions() == 0)


def test_a_full_server_is_waited_for(threads: ThreadPoolExecutor) -> None:
    with ServerProcess("--max-sessions", "1") as server, remote_pool(server.url) as pool:
        first = pool.open_sync()
        reply = httpx.post(
            f"{server.url}/sessions",
            content=encode_frame(OpenSession(1, 1, ())),
            headers={"Content-Type": FRAME_TYPE},
            trust_env=False,
        )
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert reply.text == "1 sessions are open, no more are allowed\n"
        with remote_pool(server.url, open_s=1.5) as other:
            with pytest.raises(SandboxUnavailableError, match=r"within 1\.5 s: .* 503 "):
                other.open_sync()
        second = threads.submit(pool.open_sync)
        time.sleep(0.2)
        first.close_sync()
        with second.result(PATIENCE_S) as session:
            assert session.run_sync("print(2)").stdout == "2\n"


def test_a_dead_server_costs_no_session(server: ServerProcess) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with remote_pool(dead, server.url) as pool:
        for number in range(4):
            with pool.open_sync() as session:
                assert session.run_sync(f"print({number})").stdout == f"{number}\n"


def test_a_silent_server_costs_time_but_no_session(server: ServerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        pool = remote_pool(url, open_s=0.5)
        for ask in (pool.start, pool.open_sync):
            with pytest.raises(SandboxUnavailableError, match="no answer within"):
                ask()
        pool.close()
        # Not entered: nothing is known of the servers when the first session is asked for.
        pool = remote_pool(url, server.url, open_s=4.0)
        sessions = [pool.open_sync() for _ in range(3)]
        for session in sessions:
            assert session.run_sync("print(1)").ok
            session.close_sync()
        pool.close()


async def test_sessions_are_spread_over_the_servers(server: ServerProcess) -> None:
    with ServerProcess() as other:
        async with remote_pool(server.url, other.url) as pool:
            sessions = await asyncio.gather(*(pool.open() for _ in range(6)))
            assert (server.sessions(), other.sessions()) == (3, 3)
            await asyncio.gather(*(s.close() for s in sessions if s._place.url == server.url))
            more = [await pool.open() for _ in range(3)]
            assert {session._place.url for session in more} == {server.url}
        assert (server.sessions(), other.sessions()) == (0, 0)


async def test_a_caller_that_gives_up_opening_leaves_no_session(server: ServerProcess) -> None:
    async with remote_pool(server.url) as pool:
        opening = asyncio.create_task(pool.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with await pool.open() as session:
            assert (await session.run("print(1)")).ok
        await asyncio.to_thread(wait_until, lambda: server.sessions() == 0)


def test_a_client_that_is_killed_takes_its_running_session_along(server: ServerProcess) -> None:
    program = """
    import sys
    from tests.sandbox.servers import remote_pool
    session = remote_pool(sys.argv[1]).open_sync()
    print("open", flush=True)
    session.run_sync("while True: pass", 900)
    """
    with subprocess.Popen(
        python_program("-c", textwrap.dedent(program), server.url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout is not None and client.stdout.readline() == b"open\n"
        assert server.sessions() == 1
        time.sleep(0.5)
        client.kill()
    wait_until(lambda: server.sessions() == 0)


def test_a_pool_that_is_closed_ends_what_waits(
    server: ServerProcess, threads: ThreadPoolExecutor
) -> None:
    pool = remote_pool(server.url)
    session = pool.open_sync()
    block = threads.submit(session.run_sync, LONG, 900)
    time.sleep(0.3)
    pool.close()
    with pytest.raises(SandboxUnavailableError, match="closed"):
        block.result(PATIENCE_S)
    wait_until(lambda: server.sessions() == 0)


async def _nothing() -> None:
    await asyncio.sleep(0)


async def _stay_connected(port: int) -> None:
    async with await anyio.connect_tcp("127.0.0.1", port):
        await asyncio.sleep(PATIENCE_S)


def test_a_connection_that_begins_when_its_thread_ends_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # A coroutine that nobody awaits is a warning of the collector, and so an error here.
        for _ in range(30):
            thread = LoopThread(_nothing)
            connecting = thread.submit(_stay_connected(port))
            thread.close()
            with pytest.raises(SandboxUnavailableError, match="closed"):
                connecting.result(PATIENCE_S)
        gc.collect()


def test_a_process_that_ends_closes_its_sessions(server: ServerProcess) -> None:
    program = """
    import sys
    from tests.sandbox.servers import remote_pool
    pool = remote_pool(sys.argv[1])
    print(pool.open_sync().run_sync("print(1)").stdout)
    """
    run = subprocess.run(
        python_program("-c", textwrap.dedent(program), server.url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (run.stdout.strip(), run.stderr, run.returncode) == ("1", "", 0)
    assert server.sessions() == 0


# -- failures that are hard to make for real -------------------------------------------------------


class Scripted:
    """Servers that open sessions and answer blocks as a test says."""

    def __init__(
        self,
        run: Callable[[RunBlock], httpx.Response],
        opening: Callable[[OpenSession], httpx.Response] | None = None,
    ) -> None:
        self._run, self._opening = run, opening
        self.blocks: list[RunBlock] = []
        self.hosts: list[str] = []

    def connect(self, url: str, settings: RemoteSettings) -> HttpServer:
        return HttpServer(url, settings, httpx.MockTransport(self._answer))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        if request.method == "DELETE":
            return httpx.Response(204)
        if request.url.path.endswith("/run"):
            block = decode_frame(unpack(body), RunBlock)
            self.blocks.append(block)
            return self._run(block)
        self.hosts.append(request.url.host)
        opening = decode_frame(unpack(body), OpenSession)
        if self._opening is not None and request.url.host == "bad":
            return self._opening(opening)
        return framed(201, encode_frame(Done(opening.id)), {"Location": "/sessions/0f"})


def framed(status: int, data: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(
        status, content=data, headers={"Content-Type": FRAME_TYPE, **(headers or {})}
    )


def done(identifier: int) -> bytes:
    return encode_frame(BlockDone.of(identifier, ExecutionResult(ExecutionStatus.OK, "1\n")))


def broken_off(block: RunBlock) -> httpx.Response:
    raise httpx.ReadError("connection reset")


RUNS: dict[str, Callable[[RunBlock], httpx.Response]] = {
    "a server error": lambda block: httpx.Response(500, text="no"),
    "a proxy's page": lambda block: httpx.Response(502, html="<html>\nbad gateway</html>"),
    "a page of another service": lambda block: httpx.Response(200, html="welcome"),
    "a redirect": lambda block: httpx.Response(307, headers={"Location": "http://elsewhere/"}),
    "a full server": lambda block: httpx.Response(503, headers={"Retry-After": "nan"}),
    "a connection that breaks": broken_off,
    "nothing": lambda block: framed(200, b""),
    "half a frame": lambda block: framed(200, done(block.id)[:-3]),
    "more than a frame": lambda block: framed(200, done(block.id) + b"x"),
    "the answer to another block": lambda block: framed(200, done(block.id + 1)),
    "another message": lambda block: framed(200, encode_frame(Done(block.id))),
    "a lost session": lambda block: framed(
        410, encode_frame(Failed(block.id, FailureKind.SANDBOX, "the session is lost"))
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_failed_block_is_our_failure_and_never_sent_again(name: str) -> None:
    script = Scripted(RUNS[name])
    pool = remote_pool("http://good", connect=script.connect)
    session = pool.open_sync()
    for _ in range(2):
        with pytest.raises(SandboxUnavailableError) as raised:
            session.run_sync("print(1)")
        assert "\n" not in str(raised.value)
    assert len(script.blocks) == 1
    session.close_sync()
    pool.close()


def failed(kind: FailureKind) -> Callable[[OpenSession], httpx.Response]:
    return lambda opening: framed(410, encode_frame(Failed(opening.id, kind, "no place for it")))


@pytest.mark.parametrize(
    "answer",
    [
        lambda opening: httpx.Response(500),
        lambda opening: httpx.Response(401),
        lambda opening: httpx.Response(413),
        lambda opening: httpx.Response(503, headers={"Retry-After": "1"}),
        lambda opening: framed(201, encode_frame(Done(opening.id))),  # without a name
        failed(FailureKind.SANDBOX),
    ],
)
def test_an_opening_is_tried_at_another_server(
    answer: Callable[[OpenSession], httpx.Response],
) -> None:
    script = Scripted(lambda block: framed(200, done(block.id)), answer)
    pool = remote_pool("http://bad", "http://good", connect=script.connect)
    sessions = [pool.open_sync() for _ in range(3)]
    assert {session._place.url for session in sessions} == {"http://good"}
    assert script.hosts.count("good") == 3
    assert all(session.run_sync("print(1)").stdout == "1\n" for session in sessions)
    pool.close()


def test_what_cannot_be_had_is_not_tried_elsewhere() -> None:
    script = Scripted(lambda block: framed(200, done(block.id)), failed(FailureKind.CALLER))
    pool = remote_pool("http://bad", connect=script.connect)
    with pytest.raises(ValueError, match="no place for it"):
        pool.open_sync()
    assert script.hosts == ["bad"]
    pool.close()


def test_servers_that_all_refuse_are_named_at_once() -> None:
    refuse = lambda opening: httpx.Response(400, text="the body is no OpenSession: old\nmore")  # noqa: E731
    script = Scripted(lambda block: framed(200, done(block.id)), refuse)
    pool = remote_pool("http://bad", connect=script.connect)
    with pytest.raises(SandboxUnavailableError, match=r"http://bad answers 400 .* old$"):
        pool.open_sync()
    pool.close()


def test_one_opening_finds_out_whether_a_server_is_back() -> None:
    asked = threading.Event()
    answers = iter([httpx.Response(500)])

    def answer(opening: OpenSession) -> httpx.Response:
        asked.set()
        good = framed(201, encode_frame(Done(opening.id)), {"Location": "/sessions/0f"})
        return next(answers, good)

    script = Scripted(lambda block: framed(200, done(block.id)), answer)
    pool = remote_pool("http://bad", connect=script.connect)

    async def open_all() -> None:
        await asyncio.gather(*(pool.open() for _ in range(20)))

    asyncio.run(open_all())
    # Those that were under way together, or one by one: never all of them a second time.
    assert len(script.hosts) <= 21
    pool.close()
