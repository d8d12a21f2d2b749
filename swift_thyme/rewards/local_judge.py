"""A judge that runs here, without a model: for tests, benchmarks and rehearsals of failures.

It speaks the two calls of an OpenAI-compatible server that the client uses, decides by comparing
texts (or by a function), and misbehaves on demand. It is no judge for training: it knows nothing.

``python -m swift_thyme.rewards.local_judge --port 8001`` serves until it is stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from swift_thyme.answers.wording import normalise

__all__ = ["Fault", "LocalJudge", "Reply", "compare_texts", "main", "prompt_part"]


@dataclass(frozen=True, slots=True)
class Fault:
    """How a reply goes wrong; the default is not at all."""

    delay_s: float = 0.0
    """Extra time (in seconds) before the reply."""
    status: int = 200
    """HTTP status to reply with."""
    retry_after: str | None = None
    """Value of the ``Retry-After`` header."""
    reset: bool = False
    """Drop the connection instead of replying."""
    hang: bool = False
    """Never reply."""
    truncate: bool = False
    """End the body in the middle, with a length that fits the rest."""
    content: Callable[[str], str | None] | None = None
    """Makes the reply's text out of the right one; None as a result means JSON null."""
    body: bytes | None = None
    """The whole body, instead of a chat completion."""


Reply = Callable[[dict[str, Any]], str]
_SOUND = Fault()
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}


def prompt_part(body: dict[str, Any], name: str) -> str:
    """Return what stands between the marks ``<name CODE>`` of a request's user message."""
    match = re.search(rf"<{name} ([0-9a-f]+)>\n(.*)\n</{name} \1>", user_text(body), re.DOTALL)
    return match.group(2) if match is not None else ""


def user_text(body: dict[str, Any]) -> str:
    """Return the text of a request's user message, without its images."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def compare_texts(body: dict[str, Any]) -> str:
    """Give the verdict of somebody who only compares texts.

    Answers are right when they equal the reference, reasoning is consistent when its last words
    hold the answer, code always helps, and every process gets half of the best grade.
    """
    text = user_text(body)
    if "<candidate " in text:
        reference = re.search(r"\nReference answer:\n(.*?)\n\n<candidate ", text, re.DOTALL)
        wanted = reference.group(1) if reference is not None else ""
        same = normalise(prompt_part(body, "candidate")) == normalise(wanted)
        return json.dumps({"Correctness": int(same)})
    if '{"Consistency"' in text:
        answer = normalise(prompt_part(body, "answer"))
        return json.dumps({"Consistency": int(answer in normalise(prompt_part(body, "reasoning")))})
    return json.dumps({"Score": 2} if '{"Score"' in text else {"Correctness": 1})


class LocalJudge:
    """An OpenAI-compatible server in a thread of its own.

    Args:
        reply: Makes the reply's text from the request's body.
        latency_s: Time (in seconds) that each reply takes.
        fault: Chooses what goes wrong with a request, from its number (from 0) and body.
        json_mode: Whether ``response_format`` is accepted.
        port: Port to listen on; 0 takes a free one, which a restart keeps.
        host: Address to listen on; that of a network lets its hosts ask too.
    """

    def __init__(
        self,
        reply: Reply = compare_texts,
        latency_s: float = 0.0,
        fault: Callable[[int, dict[str, Any]], Fault] | None = None,
        json_mode: bool = True,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.reply = reply
        self.latency_s = latency_s
        self.fault = fault
        self.json_mode = json_mode
        self.port = port
        self.host = host
        self.bodies: list[dict[str, Any]] = []
        """Bodies of the chat requests received so far."""
        self.headers: list[str] = []
        """Their headers, as sent."""
        self.most_at_once = 0
        """Most chat requests that were in work at the same time."""
        self._at_once = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Base URL for the client."""
        return f"http://{self.host}:{self.port}/v1"

    def __enter__(self) -> LocalJudge:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    def stop(self) -> None:
        """Close every connection and stop listening; :meth:`start` may follow."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._thread = None

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._converse(reader, writer))
            connections[task] = writer
            task.add_done_callback(connections.pop)

        server = await asyncio.start_server(
            connected, self.host, self.port, reuse_address=True, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        for task, writer in list(connections.items()):
            task.cancel()
            # A task that is cancelled before it began closes nothing.
            writer.transport.abort()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away, which a judge need not mind
        finally:
            writer.transport.abort()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection can be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)content-length: *(\d+)", head)
        sent = await reader.readexactly(int(length.group(1)) if length is not None else 0)
        if head.startswith("GET"):
            models = {"object": "list", "data": [{"id": "local-judge", "object": "model"}]}
            await self._send(writer, json.dumps(models).encode(), _SOUND)
            return True
        body = json.loads(sent)
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(head)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer_chat(writer, number, body)
        finally:
            self._at_once -= 1

    async def _answer_chat(
        self, writer: asyncio.StreamWriter, number: int, body: dict[str, Any]
    ) -> bool:
        fault = self.fault(number, body) if self.fault is not None else _SOUND
        if not self.json_mode and "response_format" in body:
            fault = Fault(status=400)
        await asyncio.sleep(self.latency_s + fault.delay_s)
        if fault.hang:
            await asyncio.sleep(3600)
        if fault.reset:
            return False
        text: str | None = self.reply(body)
        if fault.content is not None:
            text = fault.content(str(text))
        completion = {
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        }
        encoded = json.dumps(completion).encode() if fault.body is None else fault.body
        await self._send(writer, encoded, fault)
        return not fault.truncate

    async def _send(self, writer: asyncio.StreamWriter, body: bytes, fault: Fault) -> None:
        reason = _REASONS.get(fault.status, "Error")
        head = f"HTTP/1.1 {fault.status} {reason}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        if fault.retry_after is not None:
            head += f"Retry-After: {fault.retry_after}\r\n"
        sent = body[: len(body) // 2] if fault.truncate else body
        writer.write(head.encode("ascii") + b"\r\n" + sent)
        await writer.drain()


def main(arguments: list[str] | None = None) -> None:
    """Serve one local judge until the process is stopped (SIGTERM, SIGINT)."""
    parser = argparse.ArgumentParser(description="A judge without a model, for tests only.")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each reply takes")
    options = parser.parse_args(arguments)
    with LocalJudge(latency_s=options.latency, port=options.port, host=options.host) as judge:
        sys.stdout.write(f"{judge.url}\n")
        sys.stdout.flush()
        # Not until stdin closes: it is closed from the start where a job runs in the background.
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
