"""The background thread of a pool: it does what it is told, and waits for sockets in between.

Its lock guards everything that callers' threads share with it; it lets go of the lock to wait.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable

from swift_thyme.core.errors import SandboxUnavailableError

__all__ = ["PoolThread"]

logger = logging.getLogger(__name__)

CLOSED = "the sandbox pool is closed"


class PoolThread:
    """The thread.

    Args:
        check: Called, with the lock held, whenever the thread woke up.
        end: Called once, with the lock held, when it stops.

    Attributes:
        owner: The process that the thread belongs to; a fork of it inherits the record alone.
        lock: Held by whoever touches what callers share with the thread.
        period_s: Seconds after which the thread wakes up by itself; None for never.
        stopping: Whether nothing is to be begun any more.
    """

    def __init__(self, check: Callable[[], None], end: Callable[[], None]) -> None:
        self.owner = os.getpid()
        self.lock = threading.RLock()
        self.period_s: float | None = None
        self.stopping = False
        self._check = check
        self._at_end = end
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._calls: deque[Callable[[], None]] = deque()
        self._calls_lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="swift-thyme-sandbox", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def call(self, work: Callable[[], None]) -> None:
        """Let the thread do something, which must not block.

        Raises:
            SandboxUnavailableError: It was closed.
        """
        with self._calls_lock:
            if self.stopping or self.owner != os.getpid():
                raise SandboxUnavailableError(CLOSED)
            self._calls.append(work)
            with contextlib.suppress(BlockingIOError):
                self._wake_write.send(b"x")

    def call_here(self, work: Callable[[], None]) -> bool:
        """Do something in the calling thread, unless something was asked for before.

        Args:
            work: What to do; it must not block and must not start a process.

        Returns:
            Whether it was done.
        """
        if self.stopping or self.owner != os.getpid():
            return False
        with self.lock:
            if self._calls or self.stopping:
                return False
            work()
            return True

    def watch(
        self, connection: socket.socket, before: int, now: int, handle: Callable[[int], None]
    ) -> None:
        """Change what the thread waits for at a socket; with the lock held.

        Args:
            connection: The socket.
            before: The selector's events until now, 0 for none.
            now: The events from now on.
            handle: Called with the events that came.
        """
        if not before:
            self._selector.register(connection, now, handle)
        elif now:
            self._selector.modify(connection, now, handle)
        else:
            self._selector.unregister(connection)

    def close(self) -> None:
        """End the thread; may be called twice."""
        with self._calls_lock:
            if self.stopping:
                return
            self.stopping = True
            with contextlib.suppress(BlockingIOError):
                self._wake_write.send(b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        if self.owner == os.getpid():
            self.close()

    def _serve(self) -> None:
        try:
            while not self.stopping:
                ready = self._selector.select(self.period_s)
                with self.lock:
                    for key, events in ready:
                        if key.data is None:
                            with contextlib.suppress(BlockingIOError):
                                self._wake_read.recv(4096)
                        else:
                            key.data(events)
                    while self._calls:
                        self._calls.popleft()()
                    self._check()
        except Exception:
            logger.exception("the sandbox thread failed")
            raise
        finally:
            with self._calls_lock:
                self.stopping = True
            with self.lock:
                self._end()

    def _end(self) -> None:
        self._at_end()
        while self._calls:
            # Whoever asked in the last moment gets the same error as everybody else.
            with contextlib.suppress(SandboxUnavailableError):
                self._calls.popleft()()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()
