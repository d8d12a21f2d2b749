"""One server that runs code elsewhere: what the pool needs of it, and ours that speaks HTTP.

Whatever goes wrong between here and there is our failure, never that of the code, so all of it is
a `ServerFault`. Only the server's own word that a request cannot be had is a `ValueError`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

import httpx

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult
from swift_thyme.sandbox.frames import MAX_BLOB_BYTES, unpack
from swift_thyme.sandbox.message_codec import Message, decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    BlockDone,
    Done,
    Failed,
    FailureKind,
    OpenSession,
    RunBlock,
    SourceImage,
)
from swift_thyme.sandbox.remote_protocol import FRAME_TYPE, Status
from swift_thyme.sandbox.remote_settings import RemoteSettings
from swift_thyme.sandbox.requests import new_number
from swift_thyme.sandbox.wire import WireError

__all__ = ["CodeServer", "Fault", "Health", "HttpServer", "ServerFault"]

M = TypeVar("M", Done, BlockDone)

_CONNECT_S = 5.0
_KEEP_IDLE_S = 30.0
"""Shorter than the server keeps an idle connection, so that no block meets one being closed."""
_SHOWN_CHARS = 300
_LARGE_BYTES = 1 << 18
"""Messages of more bytes are read and written beside the event loop."""
_MOST_WAIT_S = 10.0


class Fault(Enum):
    """What a failure says about the server and the request."""

    DOWN = "down"
    """The server cannot be reached, or failed; another one may do it, or this one later."""
    FULL = "full"
    """The server has no room now."""
    REFUSED = "refused"
    """The server will never do it: a wrong token, another version, too large a request."""
    LOST = "lost"
    """The session is lost or cannot be made; the server is well."""


class ServerFault(SandboxUnavailableError):
    """A server did not do what was asked for.

    Args:
        reason: One line.
        fault: What it says about the server.
        wait_s: Seconds for which the server wants to be left alone.
    """

    def __init__(self, reason: str, fault: Fault, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.fault = fault
        self.wait_s = wait_s


@dataclass(frozen=True)
class Health:
    """How a server is."""

    version: str
    sessions: int
    """Sessions that are open, of all clients."""
    most_sessions: int


class CodeServer(Protocol):
    """A service that runs code: these five methods are all that the pool asks of one.

    One event loop calls them; the pool cancels those that take too long. Each raises `ServerFault`
    and, where what was asked for cannot be had, `ValueError`.
    """

    async def health(self) -> Health:
        """Say that it is up and takes our token."""

    async def open(self, images: tuple[SourceImage, ...]) -> str:
        """Open a session with images, given as bytes, and return its name."""

    async def run(self, session: str, code: str, timeout_s: float) -> ExecutionResult:
        """Run a block, once and never a second time, within `timeout_s` seconds."""

    async def close(self, session: str) -> None:
        """End a session; one that is not there has ended already."""

    async def leave(self) -> None:
        """Give back what this client holds."""


class _Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class HttpServer:
    """A `thyme sandbox-server`.

    Args:
        url: Its base URL.
        settings: The token.
        transport: Carries the requests; None makes one.
    """

    def __init__(
        self, url: str, settings: RemoteSettings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url
        headers = {"Accept-Encoding": "identity"}
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token}"
        if transport is None:
            # A connection that could not be made is tried a second time: nothing was sent yet.
            # The environment's proxies are for the outside; code and images stay inside.
            limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_IDLE_S)
            transport = httpx.AsyncHTTPTransport(retries=1, limits=limits)
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    async def health(self) -> Health:
        """Ask for the server's state.

        Raises:
            ServerFault: It has none to tell.
        """
        reply = await self._ask("GET", "/health")
        if reply.status != 200:
            raise self._refusal(reply)
        try:
            said = json.loads(reply.body)
            return Health(str(said["version"]), int(said["sessions"]), int(said["most_sessions"]))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._fault(f"is no sandbox server: {error!r}", Fault.REFUSED) from error

    async def open(self, images: tuple[SourceImage, ...]) -> str:
        """Open a session.

        Raises:
            ServerFault: There is none.
            ValueError: An image cannot be placed.
        """
        number = new_number()
        message = OpenSession(number, number, images)
        body = await asyncio.to_thread(encode_frame, message) if images else encode_frame(message)
        reply = await self._ask("POST", "/sessions", body)
        await self._answer(reply, number, Done)
        name: str = reply.headers.get("location", "").rpartition("/sessions/")[2]
        if not (name.isascii() and name.isalnum()):
            raise self._fault("names no session", Fault.REFUSED)
        return name

    async def run(self, session: str, code: str, timeout_s: float) -> ExecutionResult:
        """Run a block.

        Raises:
            ServerFault: There is no result; whether the block ran is not known.
            ValueError: The limit cannot be used.
        """
        number = new_number()
        body = encode_frame(RunBlock(number, number, code, timeout_s))
        reply = await self._ask("POST", f"/sessions/{session}/run", body)
        return (await self._answer(reply, number, BlockDone)).result()

    async def close(self, session: str) -> None:
        """End a session.

        Raises:
            ServerFault: Whether it ended is not known.
        """
        reply = await self._ask("DELETE", f"/sessions/{session}")
        if reply.status not in (204, Status.UNKNOWN):
            raise self._refusal(reply)

    async def leave(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> _Reply:
        """Send a request, once, and read its whole reply.

        Raises:
            ServerFault: There is none.
        """
        headers = None if body is None else {"Content-Type": FRAME_TYPE}
        data = bytearray()
        try:
            async with self._client.stream(
                method, f"{self._url}{path}", content=body, headers=headers
            ) as response:
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BLOB_BYTES:
                        raise self._fault("sent too much", Fault.LOST)
                return _Reply(response.status_code, response.headers, bytes(data))
        # Libraries below may let their own errors through; RuntimeError is what a thread that
        # cannot start gives, or httpx where a stream is used in a wrong state.
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, EOFError) as error:
            if isinstance(error, ServerFault):
                raise
            words = f"{type(error).__name__} {error}".strip()
            raise self._fault(f"cannot be asked: {words}", Fault.DOWN) from error

    async def _answer(self, reply: _Reply, number: int, kind: type[M]) -> M:
        """Return the message of a reply.

        Raises:
            ServerFault: The reply is another one.
            ValueError: What was asked for cannot be had.
        """
        if reply.headers.get("content-type") != FRAME_TYPE:
            raise self._refusal(reply)
        try:
            if len(reply.body) > _LARGE_BYTES:
                message = await asyncio.to_thread(_decode, reply.body, kind)
            else:
                message = _decode(reply.body, kind)
        except WireError as error:
            raise self._fault(f"speaks another language: {error}", Fault.REFUSED) from error
        if message.id != number:
            raise self._fault("answers another question", Fault.REFUSED)
        if not isinstance(message, Failed):
            return message
        if message.kind is FailureKind.CALLER:
            raise ValueError(message.reason)
        raise self._fault(message.reason, Fault.LOST)

    def _refusal(self, reply: _Reply) -> ServerFault:
        """Return the error for a reply that is no message."""
        lines = reply.body[:4096].decode("utf-8", "replace").strip().splitlines() or [""]
        line = "".join(char for char in lines[0][:_SHOWN_CHARS] if char.isprintable())
        said = f"answers {reply.status} {line}".strip()
        if reply.status in (401, 403):
            return self._fault(f"{said} (THYME_SANDBOX_TOKEN)", Fault.REFUSED)
        if reply.status == Status.UNKNOWN:
            return self._fault(said, Fault.LOST)
        if reply.status == 429 or (reply.status == Status.FULL and "retry-after" in reply.headers):
            return self._fault(said, Fault.FULL, _retry_after_s(reply.headers))
        if reply.status >= 500 or reply.status == 408:
            return self._fault(said, Fault.DOWN)
        return self._fault(said, Fault.REFUSED)

    def _fault(self, words: str, fault: Fault, wait_s: float = 0.0) -> ServerFault:
        return ServerFault(f"the sandbox server {self._url} {words}", fault, wait_s)


def _decode(body: bytes, kind: type[M]) -> M | Failed:
    message: Message = decode_frame(unpack(body), kind, Failed)
    assert isinstance(message, (kind, Failed))
    return message


def _retry_after_s(headers: httpx.Headers) -> float:
    """Return how long a server wants to be left alone (in seconds, within reason)."""
    try:
        wait_s = float(headers.get("retry-after", ""))
    except ValueError:
        wait_s = 1.0
    return min(_MOST_WAIT_S, max(0.05, wait_s))
