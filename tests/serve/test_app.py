"""The HTTP application on a real port; the model is scripted, the sandbox is real."""

import asyncio
import base64
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import pytest
import uvicorn

from swift_thyme.core.pictures import ImageLimits
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from swift_thyme.serve.app import ServeSettings, make_app
from tests.inference.builders import ScriptedServer, image_bytes, sse, turn_events
from tests.inference.test_loop import ANSWER, CROP, open_sessions


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(SandboxSettings(workers=1, preload=("numpy", "PIL.Image"))) as pool:
        yield pool


@asynccontextmanager
async def serving(
    pool: SandboxPool, turns: list[Any], **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedServer]]:
    script = ScriptedServer(turns)
    engine = await script.engine(max_images=2)
    app = make_app(engine, pool, ServeSettings(system="S", **settings))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    # The test's own handlers stay.
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    listener = socket.create_server(("127.0.0.1", 0))
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client, script
    finally:
        server.should_exit = True
        await running
        await engine.close()


def image_part(data: bytes | None = None, kind: str = "png") -> dict[str, Any]:
    encoded = base64.b64encode(image_bytes() if data is None else data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded}"}}


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "Which colour?"}]
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


async def test_a_request_runs_the_whole_loop(pool: SandboxPool) -> None:
    async with serving(pool, [CROP, ANSWER]) as (client, script):
        body = chat(image_part(), thyme={"images": True}, temperature=0.5, max_tokens=500)
        reply = (await client.post("/v1/chat/completions", json=body)).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == "red"
    assert choice["finish_reason"] == "stop"
    observation = "<sandbox_output>(64, 48)\n<image></sandbox_output>"
    expected = f"{CROP}{observation}Red.</think>\n"
    assert choice["message"]["reasoning_content"] == expected
    assert reply["usage"]["prompt_tokens"] == 50
    assert reply["usage"]["completion_tokens"] == len(CROP) + len(ANSWER)
    assert reply["thyme"]["tool_used"] and reply["thyme"]["statuses"] == ["ok"]
    (image,) = reply["thyme"]["segments"][2]["images"]
    assert (image["width"], image["height"]) == (40, 40)
    assert base64.b64decode(image["url"].partition(",")[2]).startswith(b"\x89PNG")
    sent = script.bodies[0]
    assert sent["temperature"] == 0.5
    assert sent["max_tokens"] == 500
    assert sent["messages"][0] == {"role": "system", "content": "S"}
    assert 'User Image Path: "/mnt/data/images/0.png"' in sent["messages"][1]["content"][1]["text"]


async def test_a_stream_says_the_same_piece_by_piece(pool: SandboxPool) -> None:
    body = chat(image_part(), stream=True, stream_options={"include_usage": True})
    async with serving(pool, [CROP, ANSWER]) as (client, _):
        text = (await client.post("/v1/chat/completions", json=body)).text
    lines = [line[6:] for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    usage = chunks.pop()
    assert usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 50
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("content", "") for d in deltas) == "red"
    observation = "<sandbox_output>(64, 48)\n<image></sandbox_output>"
    assert "".join(d.get("reasoning_content", "") for d in deltas) == (
        f"{CROP}{observation}Red.</think>\n"
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["thyme"]["answer"] == "red"
    seen = [
        chunk["thyme"]["observation"] for chunk in chunks if "observation" in chunk.get("thyme", {})
    ]
    assert [s["status"] for s in seen] == ["ok"]


async def test_the_whole_turn_can_be_the_content(pool: SandboxPool) -> None:
    async with serving(pool, [ANSWER]) as (client, _):
        body = chat(thyme={"content": "completion"})
        reply = (await client.post("/v1/chat/completions", json=body)).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER


async def test_earlier_messages_are_the_history(pool: SandboxPool) -> None:
    messages = [
        {"role": "system", "content": "Mine."},
        {"role": "user", "content": [image_part(), {"type": "text", "text": "First?"}]},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "And now?"},
    ]
    async with serving(pool, [ANSWER]) as (client, script):
        await client.post("/v1/chat/completions", json={"messages": messages})
    sent = script.bodies[0]["messages"]
    assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
    assert sent[0]["content"] == "Mine."
    assert [p["type"] for p in sent[1]["content"]] == ["image_url", "text"]
    assert sent[3]["content"][0]["text"].startswith("And now?")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "messages", "non-empty list"),
        ([], None, "JSON object"),
        (chat(n=2), "n", "n = 1"),
        (chat(tools=[{"type": "function"}]), "tools", "own code"),
        (chat(continue_final_message=True), "continue_final_message", "whole loop"),
        (chat(temperature="hot"), "temperature", "number"),
        (chat(temperature=-1), None, "between 0 and 10"),
        (chat(max_tokens=0), "max_tokens", "at least 1"),
        (chat(stream="yes"), "stream", "true or false"),
        (chat(*[image_part()] * 3), "messages[0].content[2]", "at most 2 images"),
        (chat(image_part(b"GIF89a")), "messages[0].content[0]", "cannot be decoded|not an image"),
        (
            chat({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}),
            "messages[0].content[0]",
            "data URIs",
        ),
        (
            chat({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
            "messages[0].content[0]",
            "data URIs",
        ),
        (
            chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}}),
            "messages[0].content[0]",
            "broken base64",
        ),
        (chat({"type": "input_audio"}), "messages[0].content[0]", "input_audio"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "tool"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "user's"),
    ],
)
async def test_what_cannot_be_served_is_named(
    pool: SandboxPool, body: Any, param: str | None, words: str
) -> None:
    async with serving(pool, []) as (client, _):
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert re.search(words, error["message"])


async def test_only_the_bearer_of_the_token_may_ask(pool: SandboxPool) -> None:
    async with serving(pool, [ANSWER], api_key="s3cret") as (client, _):
        url, good = "/v1/chat/completions", {"Authorization": "Bearer s3cret"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            response = await client.post(url, json=chat(), headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert (await client.get("/v1/models", headers=headers)).status_code == 401
        assert (await client.post(url, json=chat(), headers=good)).status_code == 200
        listed = (await client.get("/v1/models", headers=good)).json()
        assert listed["data"][0]["id"] == "scripted"
        assert (await client.get("/health")).status_code == 200


async def test_a_body_is_counted_while_it_is_read(pool: SandboxPool) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 10_000

    async with serving(pool, [], max_body_bytes=100_000) as (client, _):
        url = "/v1/chat/completions"
        declared = await client.post(url, content=b"x" * 100_001)
        assert declared.status_code == 413
        # The server answers and closes; whether the answer is read before depends on timing.
        try:
            response = await client.post(url, content=endless())
            assert response.status_code == 413
        except httpx.TransportError as error:
            assert not isinstance(error, httpx.TimeoutException)


async def test_images_are_limited_in_bytes_and_pixels(pool: SandboxPool) -> None:
    limits = ImageLimits(max_bytes=10_000, max_pixels=64 * 48)
    async with serving(pool, [ANSWER], images=limits) as (client, _):
        url = "/v1/chat/completions"
        assert (await client.post(url, json=chat(image_part()))).status_code == 200
        large = await client.post(url, json=chat(image_part(image_bytes((65, 48)))))
        assert (large.status_code, "65x48" in large.text) == (400, True)
        heavy = await client.post(url, json=chat(image_part(b"\x89PNG" + b"0" * 20_000)))
        assert (heavy.status_code, "10000 bytes" in heavy.text) == (400, True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_takes_its_trajectory_along(
    pool: SandboxPool, stream: bool
) -> None:
    reached, gone = asyncio.Event(), asyncio.Event()

    class Hangs(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            reached.set()
            try:
                await asyncio.sleep(60)
            finally:
                gone.set()
            yield b""

    hang = lambda body: httpx.Response(200, stream=Hangs())  # noqa: E731
    async with serving(pool, [CROP, hang]) as (client, _):
        request = asyncio.ensure_future(
            client.post("/v1/chat/completions", json=chat(image_part(), stream=stream))
        )
        await reached.wait()
        assert (await client.get("/health")).json()["running"] == 1
        assert open_sessions(pool) == 1
        request.cancel()
        await asyncio.wait_for(gone.wait(), 10)
        for _ in range(100):
            health = (await client.get("/health")).json()
            if not health["running"]:
                break
            await asyncio.sleep(0.02)
        assert health["running"] == 0
        assert open_sessions(pool) == 0


async def test_who_cannot_even_wait_is_told_to_come_back(pool: SandboxPool) -> None:
    go_on = asyncio.Event()

    class Waits(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await go_on.wait()
            yield sse(turn_events(ANSWER))

    wait = lambda body: httpx.Response(200, stream=Waits())  # noqa: E731
    async with serving(pool, [wait, wait], concurrency=1, queue=1) as (client, _):
        url = "/v1/chat/completions"
        tasks = []
        for running, waiting in ((1, 0), (1, 1)):
            tasks.append(asyncio.ensure_future(client.post(url, json=chat())))
            for _ in range(200):
                health = (await client.get("/health")).json()
                if (health["running"], health["waiting"]) == (running, waiting):
                    break
                await asyncio.sleep(0.01)
        refused = await client.post(url, json=chat())
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "5"
        go_on.set()
        assert [(await task).status_code for task in tasks] == [200, 200]


async def test_an_engine_that_fails_is_a_server_error(pool: SandboxPool) -> None:
    refuse = lambda body: httpx.Response(403, json={"error": {"message": "no"}})  # noqa: E731
    async with serving(pool, [refuse, refuse]) as (client, _):
        plain = await client.post("/v1/chat/completions", json=chat())
        assert plain.status_code == 503
        assert plain.json()["error"]["type"] == "server_error"
        streamed = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert streamed.status_code == 503
        missing = await client.get("/v1/nothing")
        assert (missing.status_code, "error" in missing.json()) == (404, True)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temprature": 0.5}, "temprature", "not known here (did you mean temperature?)"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "not known"),
        ({"thyme": {"max_turn": 2}}, "thyme.max_turn", "did you mean max_turns?"),
        ({"response_format": {"type": "json_object"}}, "response_format", "grammar"),
        ({"response_format": "text"}, "response_format", "only"),
        ({"tool_choice": "required"}, "tool_choice", "own code"),
        ({"presence_penalty": 0.5}, "presence_penalty", "repetition_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "bias"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "whole loop"),
        ({"\n" * 500: 1}, "\n" * 100, "not known"),
    ],
)
async def test_a_key_that_would_be_passed_over_silently_is_named(
    pool: SandboxPool, fields: dict[str, Any], param: str, words: str
) -> None:
    async with serving(pool, []) as (client, _):
        response = await client.post("/v1/chat/completions", json=chat(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


async def test_keys_that_change_nothing_are_taken(pool: SandboxPool) -> None:
    fields = {
        "user": "u",
        "metadata": {"a": "b"},
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "tools": [],
        "logprobs": False,
        "presence_penalty": 0,
        "stop": None,
        "whatever": None,
        "add_generation_prompt": True,
    }
    async with serving(pool, [ANSWER]) as (client, _):
        assert (await client.post("/v1/chat/completions", json=chat(**fields))).status_code == 200


async def test_calls_of_the_clients_tools_are_refused_in_the_history(pool: SandboxPool) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    body = {"messages": [{"role": "user", "content": "a"}, call, {"role": "user", "content": "b"}]}
    async with serving(pool, []) as (client, _):
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[1].tool_calls"


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "swift_thyme.serve.request_log"]


async def logged(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """Return the lines; one is written after its reply has been sent."""
    for _ in range(500):
        if len(log_lines(caplog)) >= count:
            break
        await asyncio.sleep(0.02)
    return log_lines(caplog)


async def test_each_request_is_one_line_of_log_without_its_text(
    pool: SandboxPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "swift_thyme.serve")
    refuse = lambda body: httpx.Response(403, json={"error": {"message": "no"}})  # noqa: E731
    async with serving(pool, [CROP, ANSWER, ANSWER, refuse], api_key="s3cret") as (client, _):
        client.headers["Authorization"] = "Bearer s3cret"
        url = "/v1/chat/completions"
        reply = (await client.post(url, json=chat(image_part()))).json()
        await client.post(url, json=chat(stream=True))
        await client.post(url, json=chat(stop=["x"]))
        await client.post(url, json=chat())
        await client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
        await client.get("/%0aerror:%1b[31m?key=s3cret")
        await client.get("/health")
        lines = await logged(caplog, 6)
    first = f" 200 model=scripted turns=2 tokens={len(CROP) + len(ANSWER)} end=answer id="
    assert lines[0].startswith(f"POST {url}{first}{reply['id']} ")
    assert re.search(r" \d+\.\d\d s$", lines[0])
    assert " 200 model=scripted turns=1 " in lines[1]
    assert f"POST {url} 400 model=scripted id=" in lines[2]
    assert f"POST {url} 503 model=scripted id=" in lines[3]
    assert lines[4].startswith("GET /v1/models 401 ")
    assert lines[5].startswith("GET /\\nerror:\\x1b[31m 404 ")
    assert len(lines) == 6
    text = "".join(r.getMessage() for r in caplog.records)
    assert not any(word in text for word in ("s3cret", "wrong", "colour", "red"))


async def test_a_client_that_leaves_is_in_the_log(
    pool: SandboxPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "swift_thyme.serve")
    reached = asyncio.Event()

    class Hangs(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            reached.set()
            await asyncio.sleep(60)
            yield b""

    hang = lambda body: httpx.Response(200, stream=Hangs())  # noqa: E731
    async with serving(pool, [hang]) as (client, _):
        request = asyncio.ensure_future(client.post("/v1/chat/completions", json=chat()))
        await reached.wait()
        request.cancel()
        (line,) = await logged(caplog, 1)
    assert " 499 " in line and "end=client_left" in line


PAGE = "https://chat.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


async def test_pages_may_ask_only_where_their_origin_is_allowed_and_with_the_token(
    pool: SandboxPool,
) -> None:
    url, origin = "/v1/chat/completions", {"Origin": PAGE}
    good = {**origin, "Authorization": "Bearer s3cret"}
    async with serving(pool, [ANSWER], api_key="s3cret", cors_origins=(PAGE,)) as (client, _):
        allowed = await client.options(url, headers=PREFLIGHT)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in allowed.headers
        other = await client.options(url, headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        refused = await client.post(url, json=chat(), headers=origin)
        assert refused.status_code == 401
        answered = await client.post(url, json=chat(), headers=good)
        assert answered.status_code == 200
        assert answered.headers["access-control-allow-origin"] == PAGE


async def test_without_an_allowed_origin_nothing_is_said_to_pages(pool: SandboxPool) -> None:
    async with serving(pool, [ANSWER]) as (client, _):
        url = "/v1/chat/completions"
        preflight = await client.options(url, headers=PREFLIGHT)
        assert preflight.status_code == 405
        assert preflight.json()["error"]["message"] == "this path takes no such method"
        assert preflight.headers["allow"] == "POST"
        answered = await client.post(url, json=chat(), headers={"Origin": PAGE})
        headers = [*preflight.headers, *answered.headers]
        assert not [name for name in headers if name.startswith("access-control")]
        assert (await client.get(url)).status_code == 405
