"""An event loop in a thread of its own, for callers with any event loop or none."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from swift_thyme.core.errors import SandboxUnavailableError

__all__ = ["LoopThread", "arrival"]

T = TypeVar("T")

CLOSED = "the sandbox pool is closed"


class LoopThread:
    """The thread.

    Args:
        at_end: Runs in the loop when everything else has ended, before the loop does.

    Attributes:
        owner: The process that the thread belongs to; a fork of it inherits the record alone.
    """

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.owner = os.getpid()
        self._at_end = at_end
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(
            target=self._serve, name="swift-thyme-remote-sandbox", daemon=True
        )
        self._thread.start()
        atexit.register(self._close_at_exit)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to do something in the loop.

        What is going on when the thread is closed ends with `SandboxUnavailableError`.

        Raises:
            SandboxUnavailableError: It was closed.
        """
        with self._lock:
            if self._closing or self.owner != os.getpid():
                work.close()
                raise SandboxUnavailableError(CLOSED)
            return asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for which nobody waits; called in the thread."""
        self._own(asyncio.ensure_future(work))

    def close(self) -> None:
        """End the loop and the thread; may be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        if self.owner == os.getpid():
            self.close()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._own(task)
        try:
            return await work
        except asyncio.CancelledError as error:
            # Only the end of the thread cancels; whoever waits was not cancelled.
            raise SandboxUnavailableError(CLOSED) from error

    async def _end(self) -> None:
        # A task ends the tasks that it has begun. Cancelled from here, one of a task group that
        # has not run yet would leave its coroutine behind.
        while tasks := tuple(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._at_end()
        finally:
            self._loop.stop()


async def arrival(source: Future[T]) -> T:
    """Return the result of another thread's work.

    Unlike `asyncio.wrap_future`, a caller that is cancelled, or whose loop ends, leaves the work
    as it is.
    """
    loop = asyncio.get_running_loop()
    target: asyncio.Future[T] = loop.create_future()

    def settle() -> None:
        if target.done():
            return
        if source.cancelled():
            target.cancel()
            return
        error = source.exception()
        if error is None:
            target.set_result(source.result())
        else:
            target.set_exception(error)

    def notify(_: Future[T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop ended, and its tasks with it
            loop.call_soon_threadsafe(settle)

    source.add_done_callback(notify)
    return await target
