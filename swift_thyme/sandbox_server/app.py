"""The HTTP application: messages of the sandbox in, messages of the sandbox out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import swift_thyme
from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import InputImage
from swift_thyme.sandbox.frames import unpack
from swift_thyme.sandbox.interface import SandboxBackend
from swift_thyme.sandbox.message_codec import Message, decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    MAX_REASON_CHARS,
    BlockDone,
    Done,
    Failed,
    FailureKind,
    OpenSession,
    RunBlock,
)
from swift_thyme.sandbox.remote_protocol import FRAME_TYPE, Status
from swift_thyme.sandbox.wire import WireError, clean_text
from swift_thyme.sandbox_server.sessions import NoRoom, SessionTable, UnknownSession
from swift_thyme.web.guard import BodyTooLarge, holds_token, read_body, unless_gone

__all__ = ["SandboxServerSettings", "make_app"]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_MOST_BLOCK_BYTES = 4 << 20
"""A program of the most characters, each written as two JSON escapes, and some room."""
_LARGE_BYTES = 1 << 18
"""Messages of more bytes are read and written beside the event loop."""
_BODY_LIMIT_S = 120.0
_DRAIN_LIMIT_S = 2.0
_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class SandboxServerSettings:
    """What the server allows."""

    token: str | None = None
    """Bearer token; None lets everybody ask."""
    max_sessions: int = 256
    """Sessions at once; more are told to come back later."""
    idle_s: float = 1800.0
    """Seconds without a block after which a session is closed."""
    max_body_bytes: int = 256 << 20
    """Largest body: the images of a session."""


class _Refused(Exception):
    """A request that does not reach the sandbox."""

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.headers = headers


class _Server:
    """The handlers and what they share."""

    def __init__(self, pool: SandboxBackend, settings: SandboxServerSettings) -> None:
        self._settings = settings
        self._sessions = SessionTable(pool, settings.max_sessions, settings.idle_s)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Close idle sessions meanwhile, and all of them at the end."""
        closing = asyncio.ensure_future(self._sessions.close_idle())
        try:
            yield
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await self._sessions.close_all()

    async def health(self, request: Request) -> Response:
        """Say that the server is up; a token that is sent must be the right one."""
        if "authorization" in request.headers:
            self._admit(request)
        return JSONResponse(
            {
                "status": "ok",
                "version": swift_thyme.__version__,
                "sessions": len(self._sessions),
                "most_sessions": self._settings.max_sessions,
            }
        )

    async def open(self, request: Request) -> Response:
        """Open a session."""
        self._admit(request)
        message = await self._message(request, OpenSession, self._settings.max_body_bytes)
        images = []
        for image in message.images:
            if image.data is None:
                raise _Refused(400, "images come as bytes; no file of the server is read")
            images.append(InputImage(image.path, image.data))
        try:
            name = await unless_gone(self._sessions.open(images), request.receive)
        except NoRoom:
            line = f"{self._settings.max_sessions} sessions are open, no more are allowed"
            headers = {"Retry-After": str(_RETRY_AFTER_S)}
            raise _Refused(Status.FULL, line, headers) from None
        except (ValueError, SandboxUnavailableError) as error:
            return _failure(message.id, error)
        headers = {"Location": f"/sessions/{name}"}
        return _frame(Status.OPENED, encode_frame(Done(message.id)), headers)

    async def run(self, request: Request) -> Response:
        """Run a block."""
        self._admit(request)
        name = request.path_params["name"]
        message = await self._message(request, RunBlock, _MOST_BLOCK_BYTES)
        if message.held:
            raise _Refused(400, "a block cannot be held here")
        work = self._sessions.run(name, message.code, message.timeout_s)
        try:
            result = await unless_gone(work, request.receive)
        except (ValueError, SandboxUnavailableError) as error:
            return _failure(message.id, error)
        except ClientDisconnect:
            # Whoever asked takes the session for lost, and its block may run for long.
            with contextlib.suppress(UnknownSession):
                await self._sessions.close(name)
            raise
        answer = BlockDone.of(message.id, result)
        if sum(len(image.data) for image in answer.images) > _LARGE_BYTES:
            return _frame(200, await asyncio.to_thread(encode_frame, answer))
        return _frame(200, encode_frame(answer))

    async def close(self, request: Request) -> Response:
        """End a session."""
        self._admit(request)
        await self._sessions.close(request.path_params["name"])
        return Response(status_code=204)

    def _admit(self, request: Request) -> None:
        """Refuse who has not the token."""
        if not holds_token(request, self._settings.token):
            line = "the Authorization header holds no valid bearer token"
            raise _Refused(401, line, {"WWW-Authenticate": "Bearer"})

    async def _message(self, request: Request, kind: type[M], most: int) -> M:
        """Return the message that a request carries."""
        if request.headers.get("content-type") != FRAME_TYPE:
            raise _Refused(400, f"the Content-Type is not {FRAME_TYPE}")
        try:
            body = await asyncio.wait_for(read_body(request, most), _BODY_LIMIT_S)
        except asyncio.TimeoutError:
            raise _Refused(408, f"the body did not come within {_BODY_LIMIT_S:g} s") from None
        except BodyTooLarge as error:
            await _drain(request)
            raise _Refused(413, str(error)) from None
        try:
            if len(body) > _LARGE_BYTES:
                return await asyncio.to_thread(_decode, body, kind)
            return _decode(body, kind)
        except WireError as error:
            raise _Refused(400, f"the body is no {kind.__name__}: {error}") from None


def _decode(body: bytes, kind: type[M]) -> M:
    return decode_frame(unpack(body), kind)


async def _drain(request: Request) -> None:
    """Read on for a moment: a client that still sends would not see why it is refused."""

    async def read() -> None:
        while (await request.receive()).get("more_body", False):
            continue

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _DRAIN_LIMIT_S)


def _frame(status: int, data: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(data, status, headers, FRAME_TYPE)


def _failure(identifier: int, error: Exception) -> Response:
    """Return what the sandbox says where it did not do what was asked for."""
    is_ours = isinstance(error, SandboxUnavailableError)
    if is_ours:
        logger.warning("the sandbox failed: %s", error)
    kind = FailureKind.SANDBOX if is_ours else FailureKind.CALLER
    reason = clean_text(str(error) or type(error).__name__, MAX_REASON_CHARS)
    status = Status.LOST if is_ours else Status.CALLER
    return _frame(status, encode_frame(Failed(identifier, kind, reason)))


def _line(status: int, text: str, headers: Any = None) -> Response:
    # What a client sent may be quoted in it.
    one = " ".join(text.split()).encode("utf-8", "replace").decode()
    return PlainTextResponse(f"{one}\n", status, headers)


def make_app(pool: SandboxBackend, settings: SandboxServerSettings) -> Starlette:
    """Return the application.

    Args:
        pool: Runs code; stays the caller's.
        settings: What is allowed.
    """
    server = _Server(pool, settings)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        return _line(error.status, str(error), error.headers)

    async def unknown(request: Request, error: Exception) -> Response:
        line = "there is no such session; one without blocks ends after a while"
        return _line(Status.UNKNOWN, line)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _line(error.status_code, error.detail, error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return _line(500, "internal error")

    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/sessions", server.open, methods=["POST"]),
            Route("/sessions/{name}/run", server.run, methods=["POST"]),
            Route("/sessions/{name}", server.close, methods=["DELETE"]),
        ],
        exception_handlers={
            _Refused: refused,
            UnknownSession: unknown,
            ClientDisconnect: gone,
            HTTPException: http,
            Exception: failed,
        },
        lifespan=server.lifespan,
    )
