"""The HTTP application: who may ask, how much, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from swift_thyme.core.errors import DataError, SandboxUnavailableError, ThymeError
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.core.summary import EndReason
from swift_thyme.inference.engine import Engine
from swift_thyme.inference.loop import (
    Event,
    FinishedTrajectory,
    LoopSettings,
    ObservationEvent,
    TextEvent,
    run_trajectory,
)
from swift_thyme.sandbox import SandboxBackend
from swift_thyme.serve.replies import ReplyWriter, error_body
from swift_thyme.serve.request_log import LogEntry, RequestLog, entry_of
from swift_thyme.serve.requests import ChatRequest, RequestError, parse_request
from swift_thyme.web.guard import BodyTooLarge, holds_token, read_body, unless_gone

__all__ = ["ServeSettings", "make_app"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeSettings:
    """What the server allows."""

    system: str
    """System prompt where a request has none."""
    loop: LoopSettings = field(default_factory=LoopSettings)
    """Defaults and largest limits of a request."""
    api_key: str | None = None
    """Bearer token; None lets everybody ask."""
    max_body_bytes: int = 64 * 1024 * 1024
    images: ImageLimits = field(default_factory=lambda: ImageLimits(bounded=True))
    concurrency: int = 32
    """Trajectories at once."""
    queue: int = 256
    """Requests that may wait; more are told to come back later."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask, such as ``https://chat.example``; ``*`` stands for all. A page
    needs the token like everybody else."""


class _Busy(Exception):
    """Too many requests wait."""


class _Gate:
    """Lets a number of requests run and a number wait."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._queue = queue
        self.waiting = 0
        self.running = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        if self._places.locked() and self.waiting >= self._queue:
            raise _Busy
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()


class _Server:
    """The handlers and what they share."""

    def __init__(self, engine: Engine, pool: SandboxBackend, settings: ServeSettings) -> None:
        self._engine = engine
        self._pool = pool
        self._settings = settings
        self._gate = _Gate(settings.concurrency, settings.queue)
        # Decoding takes memory; a few at a time are enough to keep an engine busy.
        self._decoding = asyncio.Semaphore(4)

    async def health(self, request: Request) -> Response:
        """Say that the server is up and how busy it is."""
        return JSONResponse(
            {"status": "ok", "running": self._gate.running, "waiting": self._gate.waiting}
        )

    async def models(self, request: Request) -> Response:
        """List the one model."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        name = self._engine.model_name
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "swift_thyme"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def chat(self, request: Request) -> Response:
        """Run a trajectory."""
        refused = self._refuse(request)
        if refused is not None:
            return refused
        try:
            body = await self._body(request)
            return await self._answer(request, body)
        except ClientDisconnect:
            entry_of(request.scope).end = "client_left"
            return Response(status_code=499)
        except BodyTooLarge as error:
            return _error(413, str(error))
        except _Busy:
            busy = error_body("too many requests are waiting", "rate_limit_error", code="busy")
            return JSONResponse(busy, 429, headers={"Retry-After": "5"})
        except DataError as error:
            return _error(400, str(error), getattr(error, "param", None))
        except ThymeError as error:
            logger.error("request failed: %s", error)
            return JSONResponse(error_body(str(error), "server_error"), 503)

    def _refuse(self, request: Request) -> Response | None:
        """Return the refusal of a request without the token; None where it may pass."""
        if holds_token(request, self._settings.api_key):
            return None
        body = error_body(
            "the Authorization header holds no valid bearer token",
            "invalid_request_error",
            code="invalid_api_key",
        )
        return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request) -> Any:
        data = await read_body(request, self._settings.max_body_bytes)
        try:
            return await asyncio.to_thread(json.loads, data)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not JSON: {error}") from error

    async def _answer(self, request: Request, body: Any) -> Response:
        reply_id = f"chatcmpl-{uuid.uuid4().hex}"
        settings, entry = self._settings, entry_of(request.scope)
        entry.model, entry.reply_id = self._engine.model_name, reply_id
        async with self._decoding:
            chat = await asyncio.to_thread(
                parse_request,
                body,
                request_id=reply_id,
                system=settings.system,
                loop=settings.loop,
                max_images=self._engine.max_images,
                limits=settings.images,
            )
        writer = ReplyWriter(chat, reply_id, self._engine.model_name)
        if chat.stream:
            return await _EventStream.begin(self._events(chat, entry), writer, request)
        finished = await unless_gone(self._finished(chat, entry), request.receive)
        if finished.summary.end_reason is EndReason.SANDBOX_FAILURE:
            raise SandboxUnavailableError("the sandbox failed")
        return JSONResponse(writer.whole(finished))

    async def _finished(self, chat: ChatRequest, entry: LogEntry) -> FinishedTrajectory:
        finished: FinishedTrajectory | None = None
        async with aclosing(self._events(chat, entry)) as events:
            async for event in events:
                if isinstance(event, FinishedTrajectory):
                    finished = event
        assert finished is not None
        return finished

    async def _events(self, chat: ChatRequest, entry: LogEntry) -> AsyncGenerator[Event, None]:
        async with (
            self._gate.enter(),
            aclosing(
                run_trajectory(self._engine, chat.task, self._pool, chat.loop, stream=chat.stream)
            ) as events,
        ):
            async for event in events:
                if isinstance(event, FinishedTrajectory):
                    entry.finish(event)
                yield event


def _error(status: int, message: str, param: str | None = None) -> Response:
    return JSONResponse(error_body(message, "invalid_request_error", param), status)


class _EventStream(Response):
    """A reply whose events are sent as they happen, and stop when the client leaves."""

    media_type = "text/event-stream"

    def __init__(
        self, first: Event | None, events: AsyncGenerator[Event, None], writer: ReplyWriter
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._events = events
        self._writer = writer

    @classmethod
    async def begin(
        cls, events: AsyncGenerator[Event, None], writer: ReplyWriter, request: Request
    ) -> _EventStream:
        """Wait for the first event, so that what fails before it has a status of its own."""
        try:
            first = await unless_gone(anext(events, None), request.receive)
        except BaseException:
            await events.aclose()
            raise
        return cls(first, events, writer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await unless_gone(self._send_all(send, entry_of(scope)), receive)
        except ClientDisconnect:
            # Its trajectory is cancelled below.
            entry_of(scope).end = "client_left"
        finally:
            await self._events.aclose()

    async def _send_all(self, send: Send, entry: LogEntry) -> None:
        async def say(text: str, more: bool = True) -> None:
            if text or not more:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        await say(self._writer.begin())
        try:
            if self._first is not None:
                await say(self._words(self._first))
            async for event in self._events:
                await say(self._words(event))
        except ThymeError as error:
            logger.error("a stream failed: %s", error)
            entry.end = "failed"
            await say(self._writer.failure(error_body(str(error), "server_error")))
        await say("", more=False)

    def _words(self, event: Event) -> str:
        if isinstance(event, TextEvent):
            return self._writer.text(event)
        if isinstance(event, ObservationEvent):
            return self._writer.observation(event)
        if event.summary.end_reason is EndReason.SANDBOX_FAILURE:
            return self._writer.failure(error_body("the sandbox failed", "server_error"))
        return self._writer.end(event)


def make_app(engine: Engine, pool: SandboxBackend, settings: ServeSettings) -> Starlette:
    """Return the application.

    Args:
        engine: Samples; stays the caller's.
        pool: Runs code; stays the caller's.
        settings: What is allowed.
    """
    server = _Server(engine, pool, settings)

    async def failed(request: Request, error: Exception) -> Response:
        logger.exception("a request failed", exc_info=error)
        return JSONResponse(error_body("internal error", "server_error"), 500)

    async def not_found(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body("no such path", "invalid_request_error"), 404)

    async def not_allowed(request: Request, error: Exception) -> Response:
        body = error_body("this path takes no such method", "invalid_request_error")
        return JSONResponse(body, 405, headers=getattr(error, "headers", None))

    middleware = [Middleware(RequestLog)]
    if settings.cors_origins:
        # The token travels in a header that a page has to set itself: no cookie, no credentials.
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
            )
        )
    return Starlette(
        routes=[
            Route("/health", server.health),
            Route("/v1/models", server.models),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
        ],
        exception_handlers={404: not_found, 405: not_allowed, 500: failed},
        middleware=middleware,
    )
