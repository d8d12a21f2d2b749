"""The HTTP application: what it takes, what it refuses, and with which words."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app as thyme
from swift_thyme.core.errors import SettingsError
from swift_thyme.sandbox import SandboxPool
from swift_thyme.sandbox.frames import pack, unpack
from swift_thyme.sandbox.message_codec import decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    BlockDone,
    CloseSession,
    Done,
    Failed,
    FailureKind,
    OpenSession,
    RunBlock,
    SourceImage,
)
from swift_thyme.sandbox.remote_protocol import FRAME_TYPE
from swift_thyme.sandbox_server.app import SandboxServerSettings, make_app
from tests.sandbox.conftest import jpeg, small_settings

HEADERS = {"Content-Type": FRAME_TYPE}
IMAGE = SourceImage("/data/a.jpg", None, jpeg())


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(small_settings(preload=("numpy", "PIL.Image"))) as pool:
        yield pool


@asynccontextmanager
async def serving(pool: SandboxPool, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(pool, SandboxServerSettings(**settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
    ):
        yield client


async def opened(client: httpx.AsyncClient, *images: SourceImage) -> str:
    """Open a session and return its address."""
    message = encode_frame(OpenSession(7, 0, images))
    reply = await client.post("/sessions", content=message, headers=HEADERS)
    assert reply.status_code == 201
    assert decode_frame(unpack(reply.content), Done).id == 7
    return reply.headers["location"]


def block(code: str, timeout_s: float = 5.0, **more: Any) -> bytes:
    return encode_frame(RunBlock(9, 0, code, timeout_s, **more))


async def test_a_session_is_opened_used_and_closed(pool: SandboxPool) -> None:
    async with serving(pool) as client:
        session = await opened(client, IMAGE)
        for code, printed in (("x = 1", ""), ("print(x, Image.open(image_path).size)", "1 (200")):
            reply = await client.post(f"{session}/run", content=block(code), headers=HEADERS)
            assert (reply.status_code, reply.headers["content-type"]) == (200, FRAME_TYPE)
            answer = decode_frame(unpack(reply.content), BlockDone)
            assert answer.id == 9
            assert answer.result().stdout.startswith(printed)
        assert (await client.get("/health")).json()["sessions"] == 1
        assert (await client.delete(session)).status_code == 204
        assert (await client.get("/health")).json()["sessions"] == 0
        for ask in (
            client.delete(session),
            client.post(f"{session}/run", content=block("1"), headers=HEADERS),
        ):
            reply = await ask
            assert (reply.status_code, reply.text.count("\n")) == (404, 1)


def opening(**fields: Any) -> bytes:
    """Return the frame of an opening with other fields."""
    return pack({"kind": "OpenSession", "fields": {"id": 1, "session": 1, "images": [], **fields}})


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello",
    "JSON without a frame": json.dumps({"images": []}).encode(),
    "half a frame": encode_frame(OpenSession(1, 1, (IMAGE,)))[:-1],
    "more than a frame": encode_frame(OpenSession(1, 1, ())) + b"x",
    "two frames": encode_frame(OpenSession(1, 1, ())) * 2,
    "lengths beyond all limits": b"\xff" * 64,
    "no JSON": b"\0\0\0\2" + b"\0" * 8 + b"{{",
    "deep JSON": b"\0\1\x86\xa0" + b"\0" * 8 + b"[" * 100_000,
    "another message": encode_frame(CloseSession(1, 1)),
    "a block": block("print(1)"),
    "a field too many": opening(user="root"),
    "a field too few": pack({"kind": "OpenSession", "fields": {"id": 1, "session": 1}}),
    "a number that is text": opening(id="1"),
    "a negative number": opening(id=-1),
    "no list": opening(images={}),
    "a blob that is not there": opening(images=[{"path": "/a.jpg", "file": None, "data": 0}]),
    "an image from nowhere": opening(images=[{"path": "/a.jpg", "file": None, "data": None}]),
    "too many images": encode_frame(OpenSession(1, 1, (IMAGE,) * 65)),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_malformed_is_refused_in_one_line(pool: SandboxPool, name: str) -> None:
    async with serving(pool) as client:
        reply = await client.post("/sessions", content=MALFORMED[name], headers=HEADERS)
        assert (await client.get("/health")).json()["sessions"] == 0
    assert reply.status_code == 400
    assert reply.text.startswith("the body is no OpenSession: ")
    assert reply.text.endswith("\n") and reply.text.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (encode_frame(OpenSession(1, 1, ())), 400),
        (block("1", float("inf")), 400),
        (block("1", float("nan")), 400),
        (block("1", 3601), 400),
        (block("1", -1), 400),
        (block("x" * (256 * 1024 + 1)), 400),
        (block("1", held=True), 400),
        (block("1", 0), 422),
        (b"x" * ((4 << 20) + 1), 413),
    ],
)
async def test_a_malformed_block_does_not_run_and_its_session_goes_on(
    pool: SandboxPool, body: bytes, status: int
) -> None:
    async with serving(pool) as client:
        session = await opened(client)
        reply = await client.post(f"{session}/run", content=body, headers=HEADERS)
        assert reply.status_code == status
        reply = await client.post(f"{session}/run", content=block("print(2)"), headers=HEADERS)
        assert decode_frame(unpack(reply.content), BlockDone).stdout == "2\n"


@pytest.mark.parametrize("file", ["/etc/passwd", "", "relative.jpg"])
async def test_no_file_of_the_server_is_read(pool: SandboxPool, file: str) -> None:
    async with serving(pool) as client:
        message = encode_frame(OpenSession(1, 1, (IMAGE, SourceImage("/data/b", file, None))))
        reply = await client.post("/sessions", content=message, headers=HEADERS)
    assert reply.status_code == 400
    assert reply.text == "images come as bytes; no file of the server is read\n"


@pytest.mark.parametrize(
    ("path", "words"), [("a.jpg", "absolute"), ("/a/../b", "normal"), ("/usr/a.jpg", "placed")]
)
async def test_an_image_that_cannot_be_placed_is_the_clients_mistake(
    pool: SandboxPool, path: str, words: str
) -> None:
    async with serving(pool) as client:
        message = encode_frame(OpenSession(3, 1, (SourceImage(path, None, jpeg()),)))
        reply = await client.post("/sessions", content=message, headers=HEADERS)
    assert reply.status_code == 422
    failure = decode_frame(unpack(reply.content), Failed)
    assert (failure.id, failure.kind) == (3, FailureKind.CALLER)
    assert words in failure.reason


async def test_a_page_cannot_post_what_it_may_post_unasked(pool: SandboxPool) -> None:
    async with serving(pool) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            reply = await client.post(
                "/sessions",
                content=encode_frame(OpenSession(1, 1, ())),
                headers={"Content-Type": kind},
            )
            assert reply.status_code == 400


async def test_a_body_is_counted_while_it_is_read(pool: SandboxPool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    async with serving(pool, max_body_bytes=1_000_000) as client:
        for content in (b"x" * 1_000_001, pieces()):
            reply = await client.post("/sessions", content=content, headers=HEADERS)
            assert reply.status_code == 413
            assert reply.text.startswith("the body has ")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "Bearer ",
        "Bearer wrong",
        "Basic secret",
        "secret",
        "Bearer secret ",
        "Bearer secre\xe9",
    ],
)
async def test_only_the_bearer_of_the_token_may_ask(pool: SandboxPool, given: str | None) -> None:
    async with serving(pool, token="secret") as client:
        session = "/sessions/0f"
        headers = (
            HEADERS if given is None else {**HEADERS, "Authorization": given.encode("latin-1")}
        )
        message = encode_frame(OpenSession(1, 1, ()))
        replies = [
            await client.post("/sessions", content=message, headers=headers),
            await client.post(f"{session}/run", content=block("1"), headers=headers),
            await client.delete(session, headers=headers),
        ]
        if given is not None:
            replies.append(await client.get("/health", headers=headers))
        assert [reply.status_code for reply in replies] == [401] * len(replies)
        assert all(reply.headers["www-authenticate"] == "Bearer" for reply in replies)
        assert (await client.get("/health")).status_code == 200
        headers = {**HEADERS, "Authorization": "Bearer secret"}
        reply = await client.post("/sessions", content=message, headers=headers)
        assert reply.status_code == 201


async def test_no_more_sessions_than_are_allowed(pool: SandboxPool) -> None:
    async with serving(pool, max_sessions=2) as client:
        message = encode_frame(OpenSession(1, 1, ()))
        asked = [client.post("/sessions", content=message, headers=HEADERS) for _ in range(5)]
        replies = await asyncio.gather(*asked)
        assert sorted(reply.status_code for reply in replies) == [201, 201, 503, 503, 503]
        assert {reply.headers.get("retry-after") for reply in replies} == {None, "1"}


async def test_a_session_whose_sandbox_failed_is_gone(pool: SandboxPool) -> None:
    async with serving(pool) as client:
        session = await opened(client)
        assert pool._dispatcher is not None
        pool._dispatcher.workers[0].process.kill()
        reply = await client.post(f"{session}/run", content=block("1"), headers=HEADERS)
        assert reply.status_code == 410
        failure = decode_frame(unpack(reply.content), Failed)
        assert (failure.id, failure.kind) == (9, FailureKind.SANDBOX)
        reply = await client.post(f"{session}/run", content=block("1"), headers=HEADERS)
        assert reply.status_code == 404
        await opened(client)


async def test_other_paths_and_methods_are_refused_in_one_line(pool: SandboxPool) -> None:
    async with serving(pool) as client:
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/sessions", 405),
            ("PUT", "/sessions/0f", 405),
            ("GET", "/sessions/0f/run", 405),
            ("DELETE", "/sessions/..%2f0f", 404),
        ):
            reply = await client.request(method, path)
            assert (reply.status_code, reply.text.count("\n")) == (status, 1)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "somewhere"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    result = CliRunner().invoke(thyme, ["sandbox-server", "--host", host, "--port", "0"])
    assert isinstance(result.exception, SettingsError)
    assert "set THYME_SANDBOX_TOKEN" in str(result.exception)
