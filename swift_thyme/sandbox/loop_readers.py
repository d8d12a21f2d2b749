"""Event loops that read the answers of a worker themselves.

While a task waits for a block, its event loop reads the worker's socket, which spares a second
thread and a second wake-up. Each loop has its own copy of the socket's descriptor: a number that a
loop uses must not be given away. All of this is called with the dispatcher's lock held, except for
what a loop calls itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from swift_thyme.sandbox.requests import Request

__all__ = ["LoopReaders"]


@dataclass(eq=False)
class _Reader:
    """One event loop that reads."""

    loop: asyncio.AbstractEventLoop
    descriptor: int
    thread: int
    users: int = 0
    """Requests whose answers it is to read."""

    def stop(self) -> None:
        """Read no more; in the loop's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.remove_reader(self.descriptor)


class LoopReaders:
    """The event loops that read from one worker.

    Args:
        connection: The worker's socket.
        lock: The dispatcher's.
        read: Takes what the worker sent; returns False where nothing more will come.
        changed: Called where a loop reads no more, which may leave answers that nobody reads.

    Attributes:
        covered: Requests whose answers a loop is to read.
    """

    def __init__(
        self,
        connection: socket.socket,
        lock: threading.RLock,
        read: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._read = read
        self._changed = changed
        self._readers: dict[asyncio.AbstractEventLoop, _Reader] = {}
        self.covered = 0

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that read now."""
        return list(self._readers)

    def add(self, loop: asyncio.AbstractEventLoop, request: Request) -> None:
        """Let the running event loop read, at least until a request is over, where it can."""
        reader = self._readers.get(loop)
        if reader is None:
            try:
                descriptor = os.dup(self._connection.fileno())
            except OSError:  # too many are open
                return
            reader = _Reader(loop, descriptor, threading.get_ident())
            try:
                loop.add_reader(descriptor, self._on_readable, reader)
            except NotImplementedError:  # not every loop can
                os.close(descriptor)
                return
            self._readers[loop] = reader
        reader.users += 1
        self.covered += 1
        request.loop = loop

    def leave(self, request: Request) -> None:
        """Note that nobody waits for a request any more; in the thread of its event loop."""
        reader = self._reader_of(request)
        if reader is not None:
            reader.users -= 1
            self.covered -= 1
            request.loop = None
            self._drop_unused(reader)
            self._changed()

    def release(self, request: Request) -> None:
        """Let an event loop go that has the answer it waited for; in any thread."""
        reader = self._reader_of(request)
        if reader is None:
            return
        request.loop = None
        reader.users -= 1
        self.covered -= 1
        if reader.users:
            return
        here = threading.get_ident() == reader.thread
        call = reader.loop.call_soon if here else reader.loop.call_soon_threadsafe
        with contextlib.suppress(RuntimeError):  # a closed one goes with the next check
            call(self._drop_unused, reader)  # not at once: first comes the task that waited

    def drop_closed(self, waiting: Collection[Request]) -> None:
        """Forget event loops that ended; their requests are the thread's now."""
        for reader in [r for r in self._readers.values() if r.loop.is_closed()]:
            self._drop(reader)
            self.covered -= reader.users
            for request in waiting:
                if request.loop is reader.loop:
                    request.loop = None
            self._changed()

    def _reader_of(self, request: Request) -> _Reader | None:
        return None if request.loop is None else self._readers.get(request.loop)

    def _on_readable(self, reader: _Reader) -> None:
        """Do what the thread does otherwise; called by the loop."""
        with self._lock:
            if not self._read():
                reader.stop()

    def _drop_unused(self, reader: _Reader) -> None:
        """Let an event loop read no more that waits for nothing; in its thread."""
        with self._lock:
            if not reader.users:
                self._drop(reader)
                self._changed()

    def _drop(self, reader: _Reader) -> None:
        """Let an event loop read no more; in its thread, or after its end."""
        if self._readers.get(reader.loop) is reader:
            del self._readers[reader.loop]
            reader.stop()
            os.close(reader.descriptor)
