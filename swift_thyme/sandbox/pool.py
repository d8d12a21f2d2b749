"""The pool: what a trainer, a server or an evaluation uses to run code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, InputImage
from swift_thyme.sandbox.dispatch import Dispatcher, Seat
from swift_thyme.sandbox.interface import (
    BackendSession,
    SandboxBackend,
    check_images,
    check_timeout,
)
from swift_thyme.sandbox.loop_thread import arrival
from swift_thyme.sandbox.messages import MAX_CODE_CHARS, BlockDone, RunBlock
from swift_thyme.sandbox.requests import Answer, Deliver, Request, complete, new_number
from swift_thyme.sandbox.sandbox_settings import SandboxSettings

__all__ = ["SandboxPool", "SandboxSession"]


class SandboxPool(SandboxBackend):
    """Hands out sandboxed sessions.

    Cheap to make: workers start with the first session, by `start`, or by entering it as a
    (synchronous or asynchronous) context manager. Safe to use from any thread and any event loop.
    In a process forked from the one that made it, it starts workers of its own.

    Args:
        settings: Limits and layers; None reads them from the environment.

    Raises:
        SettingsError: The environment holds a value that cannot be used.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = SandboxSettings.from_env() if settings is None else settings
        self._dispatcher: Dispatcher | None = None
        self._lock = threading.Lock()
        self._closed = False

    def _running(self) -> Dispatcher:
        with self._lock:
            if self._closed:
                raise SandboxUnavailableError("the sandbox pool is closed")
            # A fork inherits the record but not the thread behind it.
            if self._dispatcher is None or self._dispatcher.owner != os.getpid():
                self._dispatcher = Dispatcher(self.settings)
            return self._dispatcher

    def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            SandboxUnavailableError: A worker cannot start; the message says why.
        """
        self._running().start_all().result()

    def close(self) -> None:
        """End all workers and sessions; may be called twice."""
        with self._lock:
            self._closed = True
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None and dispatcher.owner == os.getpid():
            dispatcher.close()

    async def open(self, images: Sequence[InputImage] = ()) -> SandboxSession:
        """Open a session: an own Python state and own files, for one trajectory.

        A caller that is cancelled meanwhile leaves no session behind.

        Args:
            images: What the code may read; the first one's path is the preset `image_path`.

        Raises:
            SandboxUnavailableError: No worker can be started, or an image cannot be read.
            ValueError: An image path is not absolute or lies where nothing can be placed, or there
                are too many images.
        """
        check_images(images)
        dispatcher, seat = self._running(), Seat()
        dispatcher.open(seat, list(images))
        session = SandboxSession(dispatcher, seat)
        try:
            await arrival(seat.opened)
        except (asyncio.CancelledError, GeneratorExit):
            seat.opened.add_done_callback(lambda _: session.close_later())
            raise
        return session

    def open_sync(self, images: Sequence[InputImage] = ()) -> SandboxSession:
        """Do what `open` does, from code without an event loop."""
        check_images(images)
        dispatcher, seat = self._running(), Seat()
        dispatcher.open(seat, list(images))
        seat.opened.result()
        return SandboxSession(dispatcher, seat)


class SandboxSession(BackendSession):
    """One trajectory's Python; made by `SandboxPool.open`.

    Names, imports, functions and files of a block are there for the next one; a block that does
    not end with `ok` leaves everything as it was. Blocks run one after the other.
    """

    def __init__(self, dispatcher: Dispatcher, seat: Seat) -> None:
        self._dispatcher = dispatcher
        self._seat = seat
        self._closing: Future[None] | None = None
        self._turn = threading.Lock()

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Run one block.

        Cancelling the caller does not stop the block; it ends at its limit.

        Args:
            code: The program, without tags or fences.
            timeout_s: Wall-clock limit in seconds; None takes the one of the settings.

        Raises:
            SandboxUnavailableError: The sandbox failed, not the code. The session is lost.
        """
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        result: asyncio.Future[ExecutionResult] = loop.create_future()

        def take(answer: Answer | None, error: Exception | None) -> None:
            if not result.done():
                complete(result, _result_of, answer, error)

        def deliver(answer: Answer | None, error: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended, and its tasks with it
                if threading.get_ident() == thread:
                    take(answer, error)
                else:
                    loop.call_soon_threadsafe(take, answer, error)

        request = self._block(code, timeout_s, deliver)
        self._dispatcher.run(self._seat, request, loop)
        try:
            return await result
        except (asyncio.CancelledError, GeneratorExit):
            self._dispatcher.leave(self._seat, request)
            raise

    def run_sync(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Do what `run` does, from code without an event loop."""
        result: Future[ExecutionResult] = Future()
        request = self._block(code, timeout_s, partial(complete, result, _result_of))
        self._dispatcher.run(self._seat, request)
        return result.result()

    async def close(self) -> None:
        """End the session and remove its files; may be called twice.

        Cancelling the caller does not stop it.
        """
        await arrival(self.close_later())

    def close_sync(self) -> None:
        """Do what `close` does, from code without an event loop."""
        self.close_later().result()

    def close_later(self) -> Future[None]:
        """Begin to do what `close` does, and do not wait; the future is done when it is."""
        with self._turn:
            if self._closing is None:
                self._closing = Future()
                self._dispatcher.close_session(self._seat, self._closing)
        return self._closing

    def _block(self, code: str, timeout_s: float | None, deliver: Deliver) -> Request:
        limit_s = check_timeout(timeout_s, self._dispatcher.settings)
        if self._closing is not None:
            raise SandboxUnavailableError("the session is closed")
        # Of a program that is too long, as much is sent as shows that it is.
        message = RunBlock(new_number(), self._seat.number, code[:MAX_CODE_CHARS], limit_s)
        return Request(message, deliver, limit_s)


def _result_of(answer: Answer) -> ExecutionResult:
    assert isinstance(answer, BlockDone)
    return answer.result()
