"""The pool: what a trainer, a server or an evaluation uses to run code.

One background thread starts the worker processes and looks after them. Callers, from any thread
and any event loop, may hand it requests. Two shortcuts spare a block the way through it: the caller
sends the block itself, and an event loop in which a task waits for a block reads the worker's
socket itself. Both hold only while the block runs, so nothing here belongs to a loop, and a loop
may end at any time.

Workers are started by exec. Each has all blocks of its sessions at once and runs them one after
the other; a second one next to the first only while another worker has nothing to do. A block that
waits does not use up its time limit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import math
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import (
    ExecutionResult,
    ExecutionStatus,
    InputImage,
    ReturnedImage,
)
from swift_thyme.sandbox.frames import Frame, FrameReader, Inbox, WireError, pack
from swift_thyme.sandbox.process_environment import worker_environment
from swift_thyme.sandbox.sandbox_settings import SandboxSettings, local_rank

__all__ = ["SandboxPool", "SandboxSession"]

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 120.0
_REPLY_GRACE_S = 90.0
"""Seconds over its limit after which a block's worker is taken for broken and replaced."""
_DEADLINE_CHECK_S = 2.0
_MAX_START_FAILURES = 3
_logged_layers: set[tuple[str, ...]] = set()


_Deliver: TypeAlias = Callable[[Frame | None, Exception | None], None]
"""Called once, by any thread, with the answer or with what went wrong."""


@dataclass(eq=False)
class _Request:
    """Something a worker is to do."""

    header: dict[str, Any]
    blobs: Sequence[bytes]
    deliver: _Deliver
    limit_s: float
    is_block: bool = False
    identifier: int = 0
    deadline: float = math.inf
    """When the worker is taken for broken; a block that has not begun has none."""
    reader: _Reader | None = None
    """The event loop that reads the answer; None leaves that to the thread."""


@dataclass(eq=False)
class _Reader:
    """An event loop that reads from a worker, for as long as tasks in it wait for blocks there."""

    worker: _Worker
    loop: asyncio.AbstractEventLoop
    descriptor: int
    """Its own copy of the socket's: a number in use by a loop must not be given away."""
    thread: int
    users: int = 0
    """Requests of this loop among the worker's `waiting`."""

    def stop(self) -> None:
        """Read no more; in the loop's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.remove_reader(self.descriptor)


@dataclass(eq=False)
class _Worker:
    """A worker process and what was asked of it."""

    number: int
    process: subprocess.Popen[bytes]
    connection: socket.socket
    errors: int
    started: float
    reader: FrameReader = field(default_factory=FrameReader)
    ready: bool = False
    outgoing: bytearray = field(default_factory=bytearray)
    waiting: dict[int, _Request] = field(default_factory=dict)
    early: list[_Request] = field(default_factory=list)
    unread: int = 0
    """Requests among `waiting` whose answer no event loop reads."""
    held: deque[_Request] = field(default_factory=deque)
    """Blocks that it has and that have not begun."""
    busy: int = 0
    """Blocks that it runs."""
    sessions: int = 0
    readers: dict[asyncio.AbstractEventLoop, _Reader] = field(default_factory=dict)
    events: int = 0
    """What the thread's selector watches for."""
    failed: bool = False
    """Nothing is to be had from it; the thread is to give it up."""
    dead: bool = False


class SandboxPool:
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
        self._engine: _Engine | None = None
        self._lock = threading.Lock()
        self._closed = False

    def _running(self) -> _Engine:
        with self._lock:
            if self._closed:
                raise SandboxUnavailableError("the sandbox pool is closed")
            # A fork inherits the record but not the thread behind it.
            if self._engine is None or self._engine.owner != os.getpid():
                self._engine = _Engine(self.settings)
            return self._engine

    def start(self) -> None:
        """Start all workers and wait until they are ready.

        Raises:
            SandboxUnavailableError: A worker cannot start; the message says why.
        """
        self._running().start_all().result()

    async def check(self) -> None:
        """Run a program, to know that programs run.

        Raises:
            SandboxUnavailableError: It does not run; the message says why.
        """
        async with await self.open() as session:
            result = await session.run("print(1 + 1)")
        if result.stdout != "2\n":
            raise SandboxUnavailableError(
                f"print(1 + 1) ended with {result.status} in the sandbox: {result.error}"
            )

    def close(self) -> None:
        """End all workers and sessions; may be called twice."""
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None and engine.owner == os.getpid():
            engine.close()

    def __enter__(self) -> SandboxPool:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> SandboxPool:
        await asyncio.wrap_future(self._running().start_all())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    async def open(self, images: Sequence[InputImage] = ()) -> SandboxSession:
        """Open a session: an own Python state and own files, for one trajectory.

        Args:
            images: What the code may read; the first one's path is the preset `image_path`.

        Raises:
            SandboxUnavailableError: No worker can be started, or an image cannot be read.
            ValueError: An image path is not absolute or lies where nothing can be placed.
        """
        session = SandboxSession(self._running(), images)
        await asyncio.wrap_future(session._opening)
        return session

    def open_sync(self, images: Sequence[InputImage] = ()) -> SandboxSession:
        """Do what `open` does, from code without an event loop."""
        session = SandboxSession(self._running(), images)
        session._opening.result()
        return session


class SandboxSession:
    """One trajectory's Python; made by `SandboxPool.open`.

    Names, imports, functions and files of a block are there for the next one; a block that does
    not end with `ok` leaves everything as it was. Blocks run one after the other.
    """

    def __init__(self, engine: _Engine, images: Sequence[InputImage]) -> None:
        for image in images:
            if not os.path.isabs(image.path) or os.path.normpath(image.path) != image.path:
                raise ValueError(f"not an absolute, normal path: {image.path!r}")
        self._engine = engine
        self._key = next(_SESSION_KEYS)
        self._worker: _Worker | None = None
        self._opening: Future[None] = Future()
        self._closing: Future[None] | None = None
        self._turn = threading.Lock()
        engine.call(lambda: engine.open(self, list(images)))

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

        def complete(frame: Frame | None, error: Exception | None) -> None:
            if not result.done():
                _complete(result, _to_result, frame, error)

        def deliver(frame: Frame | None, error: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended, and its tasks with it
                if threading.get_ident() == thread:
                    complete(frame, error)
                else:
                    loop.call_soon_threadsafe(complete, frame, error)

        request = self._block(code, timeout_s, deliver)
        self._engine.call_here(lambda: self._engine.run(self, request, loop))
        try:
            return await result
        except (asyncio.CancelledError, GeneratorExit):
            self._engine.leave(request)
            raise

    def run_sync(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Do what `run` does, from code without an event loop."""
        result: Future[ExecutionResult] = Future()
        request = self._block(code, timeout_s, partial(_complete, result, _to_result))
        self._engine.call_here(lambda: self._engine.run(self, request))
        return result.result()

    async def close(self) -> None:
        """End the session and remove its files; may be called twice."""
        await asyncio.wrap_future(self._finish())

    def close_sync(self) -> None:
        """Do what `close` does, from code without an event loop."""
        self._finish().result()

    async def __aenter__(self) -> SandboxSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __enter__(self) -> SandboxSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_sync()

    def _block(self, code: str, timeout_s: float | None, deliver: _Deliver) -> _Request:
        limit_s = self._engine.settings.timeout_s if timeout_s is None else timeout_s
        if not 0 < limit_s <= 3600:
            raise ValueError(f"timeout_s must lie between 0 and 3600 seconds, not {limit_s}")
        if self._closing is not None:
            raise SandboxUnavailableError("the session is closed")
        header = {"op": "run", "session": self._key, "code": code, "timeout_s": limit_s}
        return _Request(header, (), deliver, limit_s, is_block=True)

    def _finish(self) -> Future[None]:
        with self._turn:
            if self._closing is None:
                self._closing = Future()
                done = self._closing
                self._engine.call(lambda: self._engine.close_session(self, done), or_else=done)
        return self._closing


_SESSION_KEYS = itertools.count(1)


class _Engine:
    """The background thread of a pool and everything it owns."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.owner = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._calls: deque[Callable[[], None]] = deque()
        self._workers: dict[int, _Worker] = {}
        self._inbox = Inbox(1 << 20)
        self._identifiers = itertools.count(1)
        self._next_check = 0.0
        self._failures = 0
        self._last_failure = ""
        self._starting: list[Future[None]] = []
        self._stopping = False
        self._lock = threading.Lock()
        # Held by whoever touches workers and requests; the thread lets go of it to wait.
        self._state = threading.RLock()
        self._thread = threading.Thread(target=self._serve, name="swift-thyme-sandbox", daemon=True)
        self._thread.start()
        reference = weakref.ref(self)

        def close_at_exit() -> None:
            engine = reference()
            if engine is not None and engine.owner == os.getpid():
                engine.close()

        self._at_exit = close_at_exit
        atexit.register(close_at_exit)

    # -- called from any thread ----------------------------------------------------------------

    def call(self, work: Callable[[], None], or_else: Future[None] | None = None) -> None:
        """Let the background thread do something.

        Args:
            work: What to do; it must not block.
            or_else: Completed instead where the engine is closed.

        Raises:
            SandboxUnavailableError: The engine is closed and there is no `or_else`.
        """
        with self._lock:
            if not self._stopping and self.owner == os.getpid():
                self._calls.append(work)
                with contextlib.suppress(BlockingIOError):
                    self._wake_write.send(b"x")
                return
        if or_else is None:
            raise SandboxUnavailableError("the sandbox pool is closed")
        or_else.set_result(None)

    def call_here(self, work: Callable[[], None]) -> None:
        """Do something in the calling thread, after what was asked for before.

        Args:
            work: What to do; it must not block and must not start a process.

        Raises:
            SandboxUnavailableError: The engine is closed.
        """
        if not self._stopping and self.owner == os.getpid():
            with self._state:
                if not self._calls and not self._stopping:
                    work()
                    return
        self.call(work)

    def start_all(self) -> Future[None]:
        """Start all workers; the future is done when they are ready."""
        done: Future[None] = Future()
        self.call(lambda: self._start_all(done))
        return done

    def close(self) -> None:
        """End the thread and the workers."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            with contextlib.suppress(BlockingIOError):
                self._wake_write.send(b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._at_exit)

    # -- the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stopping:
                # Requests that callers sent meanwhile have deadlines that it does not wake up for.
                ready = self._selector.select(_DEADLINE_CHECK_S if self._workers else None)
                with self._state:
                    for key, events in ready:
                        if key.data is None:
                            with contextlib.suppress(BlockingIOError):
                                self._wake_read.recv(4096)
                        else:
                            self._on_worker(key.data, events)
                    while self._calls:
                        self._calls.popleft()()
                    self._check_deadlines()
        except Exception:
            logger.exception("the sandbox thread failed")
            raise
        finally:
            with self._lock:
                self._stopping = True
            with self._state:
                self._end()

    def _end(self) -> None:
        for worker in list(self._workers.values()):
            self._lose(worker, "the sandbox pool was closed", expected=True)
        while self._calls:
            # Whoever asked in the last moment gets the same error as everybody else.
            with contextlib.suppress(SandboxUnavailableError):
                self._calls.popleft()()
        self._fail_starting("the sandbox pool was closed")
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _DEADLINE_CHECK_S
        for worker in list(self._workers.values()):
            for reader in [r for r in worker.readers.values() if r.loop.is_closed()]:
                self._drop_reader(reader)
            self._on_worker(worker, selectors.EVENT_READ)  # a loop may have no time for it
            late = any(request.deadline < now for request in worker.waiting.values())
            if late or (not worker.ready and worker.started + _START_TIMEOUT_S < now):
                self._lose(worker, "the worker does not answer")

    # -- workers -------------------------------------------------------------------------------

    def _start_all(self, done: Future[None]) -> None:
        self._starting.append(done)
        try:
            for number in range(self.settings.workers):
                if number not in self._workers:
                    self._start_worker(number)
        except OSError as error:
            self._fail_starting(str(error))
        self._check_started()

    def _check_started(self) -> None:
        ready = [worker for worker in self._workers.values() if worker.ready]
        if len(ready) == self.settings.workers:
            for done in self._starting:
                done.set_result(None)
            self._starting.clear()

    def _fail_starting(self, reason: str) -> None:
        for done in self._starting:
            done.set_exception(SandboxUnavailableError(f"the sandbox cannot start: {reason}"))
        self._starting.clear()

    def _start_worker(self, number: int) -> _Worker:
        own, other = socket.socketpair()
        errors = os.memfd_create("thyme-sandbox-errors", os.MFD_CLOEXEC)
        try:
            # Started from this thread, which lives as long as the pool: the parent-death signal
            # of a process follows the thread that started it.
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "swift_thyme.sandbox.worker",
                    "--descriptor",
                    str(other.fileno()),
                ],
                env=worker_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(other.fileno(),),
                start_new_session=True,
            )
        except OSError:
            own.close()
            os.close(errors)
            raise
        finally:
            other.close()
        own.setblocking(False)
        _confine_to_processor(process.pid, number, self.settings.workers)
        worker = _Worker(number, process, own, errors, time.monotonic())
        self._workers[number] = worker
        self._write(worker, pack({"settings": asdict(self.settings)}))
        self._watch(worker)
        return worker

    def _choose_worker(self) -> _Worker:
        """Return the worker with the fewest sessions, starting one where a slot is empty."""
        for number in range(self.settings.workers):
            if number not in self._workers:
                if self._failures >= _MAX_START_FAILURES:
                    self._failures = 0  # the next session tries again
                    raise SandboxUnavailableError(f"the sandbox cannot start: {self._last_failure}")
                try:
                    self._start_worker(number)
                except OSError as error:
                    raise SandboxUnavailableError(f"the sandbox cannot start: {error}") from error
        ready = [worker for worker in self._workers.values() if worker.ready and not worker.failed]
        return min(ready or self._workers.values(), key=lambda worker: worker.sessions)

    def _on_worker(self, worker: _Worker, events: int) -> None:
        if events & selectors.EVENT_WRITE and not worker.dead:
            self._write(worker, b"")
        if events & selectors.EVENT_READ:
            self._receive(worker)
            self._watch(worker)

    def _receive(self, worker: _Worker) -> None:
        """Take what a worker sent, if there is something; in any thread."""
        if worker.dead or worker.failed:
            return
        try:
            data = self._inbox.receive(worker.connection)
            if not data:
                self._fail(worker, "the worker ended")
                return
            for frame in worker.reader.feed(data):
                self._on_frame(worker, frame)
        except BlockingIOError:
            return
        except (OSError, WireError) as error:
            self._fail(worker, str(error))

    def _watch(self, worker: _Worker) -> None:
        """Let the thread wait for what nobody else takes care of."""
        if worker.dead:
            return
        events = selectors.EVENT_WRITE if worker.outgoing else 0
        if worker.unread or not worker.waiting:
            events |= selectors.EVENT_READ
        if events == worker.events:
            return
        if not worker.events:
            self._selector.register(worker.connection, events, worker)
        elif events:
            self._selector.modify(worker.connection, events, worker)
        else:
            self._selector.unregister(worker.connection)
        worker.events = events

    def _fail(self, worker: _Worker, reason: str) -> None:
        """Let the thread give up a worker: it takes time, and whoever calls this still uses it."""
        if not worker.failed:
            worker.failed = True
            worker.outgoing.clear()
            with contextlib.suppress(SandboxUnavailableError):
                self.call(lambda: self._lose(worker, reason))

    def _on_frame(self, worker: _Worker, frame: Frame) -> None:
        header = frame.header
        if not worker.ready:
            if "failure" in header:
                self._lose(worker, str(header["failure"]))
                return
            worker.ready = True
            self._failures = 0
            _log_layers(header["layers"])
            early, worker.early = worker.early, []
            for request in early:
                self._send(worker, request)
            self._check_started()
            return
        known = worker.waiting.pop(header.get("id", -1), None)
        if known is None:
            return
        if known.is_block:
            self._end_block(worker)
        if "failure" not in header:
            known.deliver(frame, None)
        elif header.get("kind") == "value":
            known.deliver(None, ValueError(header["failure"]))
        else:
            known.deliver(None, SandboxUnavailableError(header["failure"]))
        if known.reader is None:
            worker.unread -= 1
        else:
            self._release(known.reader)

    def _lose(self, worker: _Worker, reason: str, expected: bool = False) -> None:
        """Give up a worker: its sessions end with an error, those of the others go on."""
        if worker.dead:
            return
        worker.dead = True
        self._workers.pop(worker.number, None)
        if worker.events:
            self._selector.unregister(worker.connection)
        with contextlib.suppress(OSError):  # the loops that read have descriptors of their own
            worker.connection.shutdown(socket.SHUT_RDWR)
        worker.connection.close()
        # It ends by itself once its socket is closed, and takes its sessions with it.
        try:
            worker.process.wait(0.05 if not expected else 5.0)
        except subprocess.TimeoutExpired:
            worker.process.terminate()
            try:
                worker.process.wait(5.0)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        said = _tail_of(worker.errors)
        os.close(worker.errors)
        if not expected:
            if not worker.ready:
                self._failures += 1
            self._last_failure = reason if not said else f"{reason}: {said}"
            logger.warning("sandbox worker %d is lost: %s", worker.number, self._last_failure)
        error = f"a sandbox worker was lost: {reason}"
        if not worker.ready and not expected:
            error = f"the sandbox cannot start: {self._last_failure}"
            self._fail_starting(self._last_failure)
        lost = [*worker.waiting.values(), *worker.early]
        worker.waiting.clear()
        worker.early.clear()
        for request in lost:
            request.deliver(None, SandboxUnavailableError(error))
            if request.reader is not None:
                self._release(request.reader)
        self._use_idle_workers()

    # -- requests ------------------------------------------------------------------------------

    def _write(self, worker: _Worker, data: bytes) -> None:
        pending = worker.outgoing
        try:
            if pending:
                pending += data
                data = bytes(pending)
                pending.clear()
            left = memoryview(data)
            while left:
                left = left[worker.connection.send(left[: 1 << 20]) :]
        except BlockingIOError:
            pending += left  # the selector says when to go on
        except OSError as error:
            self._fail(worker, str(error))
            return
        if pending or worker.events & selectors.EVENT_WRITE:
            self._watch(worker)

    def _send(self, worker: _Worker, request: _Request) -> None:
        gone = worker.dead or self._stopping or (worker.failed and worker.ready)
        if gone:
            request.deliver(None, SandboxUnavailableError("a sandbox worker was lost"))
            return
        if not worker.ready:
            worker.early.append(request)
            return
        request.identifier = next(self._identifiers)
        worker.waiting[request.identifier] = request
        worker.unread += 1
        header = {**request.header, "id": request.identifier}
        if request.is_block and worker.busy and not self._has_idle_worker():
            worker.held.append(request)
            header["held"] = True
        else:
            self._begin(worker, request)
        self._write(worker, pack(header, request.blobs))

    def _begin(self, worker: _Worker, request: _Request) -> None:
        request.deadline = time.monotonic() + request.limit_s + _REPLY_GRACE_S
        worker.busy += request.is_block

    def _end_block(self, worker: _Worker) -> None:
        """Keep account of what a worker does after a block."""
        worker.busy -= 1
        if worker.held and not worker.busy:
            self._begin(worker, worker.held.popleft())  # it does so by itself
        else:
            self._use_idle_workers()

    def _has_idle_worker(self) -> bool:
        """Tell whether fewer blocks run than workers could run."""
        return sum(worker.busy for worker in self._workers.values()) < self.settings.workers

    def _use_idle_workers(self) -> None:
        """Let workers begin a second block while others have nothing to do."""
        for worker in list(self._workers.values()):
            while worker.held and self._has_idle_worker():
                request = worker.held.popleft()
                self._begin(worker, request)
                self._write(worker, pack({"op": "begin", "id": request.identifier}))

    def open(self, session: SandboxSession, images: list[InputImage]) -> None:
        """Open a session; in the background thread."""
        try:
            if self._stopping:
                raise SandboxUnavailableError("the sandbox pool is closed")
            worker = self._choose_worker()
        except SandboxUnavailableError as error:
            session._opening.set_exception(error)
            return
        except BaseException:
            text = "the sandbox pool failed, see the log"
            session._opening.set_exception(SandboxUnavailableError(text))
            raise
        session._worker = worker
        worker.sessions += 1
        described: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for image in images:
            if isinstance(image.source, bytes):
                described.append({"path": image.path, "blob": len(blobs)})
                blobs.append(image.source)
            else:
                file = os.path.abspath(image.source)
                described.append({"path": image.path, "file": file})
        header = {"op": "open", "session": session._key, "images": described}
        deliver = partial(_complete, session._opening, lambda _: None)
        self._send(worker, _Request(header, blobs, deliver, 60.0))
        self._watch(worker)

    def run(
        self,
        session: SandboxSession,
        request: _Request,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Send a block to its worker, which runs the session's earlier ones first.

        Args:
            session: The block's.
            request: The block.
            loop: The calling thread's event loop, which can read the answer.
        """
        worker = session._worker
        assert worker is not None
        self._send(worker, request)
        if loop is not None and threading.current_thread() is not self._thread:
            self._read_in(loop, worker, request)
        self._watch(worker)

    def _read_in(self, loop: asyncio.AbstractEventLoop, worker: _Worker, request: _Request) -> None:
        """Let the running event loop read from a worker, at least until the request is over."""
        if request.identifier not in worker.waiting:
            return
        reader = worker.readers.get(loop)
        if reader is None:
            try:
                descriptor = os.dup(worker.connection.fileno())
            except OSError:  # too many are open
                return
            reader = _Reader(worker, loop, descriptor, threading.get_ident())
            try:
                loop.add_reader(descriptor, self._on_readable, reader)
            except NotImplementedError:  # not every loop can
                os.close(descriptor)
                return
            worker.readers[loop] = reader
        reader.users += 1
        request.reader = reader
        worker.unread -= 1

    def _on_readable(self, reader: _Reader) -> None:
        """Do what the thread does otherwise; in the loop's thread."""
        with self._state:
            self._receive(reader.worker)
            if reader.worker.dead or reader.worker.failed:
                reader.stop()

    def leave(self, request: _Request) -> None:
        """Note that nobody waits for a request any more; in the thread of its event loop."""
        if self.owner != os.getpid():
            return
        with self._state:
            reader, request.reader = request.reader, None
            if reader is not None and reader.worker.waiting.get(request.identifier) is request:
                reader.worker.unread += 1
                reader.users -= 1
                self._drop_unused(reader)
                self._watch(reader.worker)

    def _release(self, reader: _Reader) -> None:
        """Let an event loop go that has the answer it waited for; in any thread."""
        reader.users -= 1
        if reader.users:
            return
        here = threading.get_ident() == reader.thread
        call = reader.loop.call_soon if here else reader.loop.call_soon_threadsafe
        with contextlib.suppress(RuntimeError):  # a closed one goes with the next check
            call(self._drop_unused, reader)  # not at once: first comes the task that waited

    def _drop_unused(self, reader: _Reader) -> None:
        """Let an event loop read no more that waits for nothing; in its thread."""
        with self._state:
            if not reader.users:
                self._drop_reader(reader)

    def _drop_reader(self, reader: _Reader) -> None:
        """Let an event loop read no more; in its thread, or after its end."""
        worker = reader.worker
        if worker.readers.get(reader.loop) is not reader:
            return
        del worker.readers[reader.loop]
        reader.stop()
        os.close(reader.descriptor)
        for request in worker.waiting.values():
            if request.reader is reader:
                request.reader = None
                worker.unread += 1
        self._watch(worker)

    def close_session(self, session: SandboxSession, done: Future[None]) -> None:
        """End a session; in the background thread."""
        worker = session._worker
        if worker is None or worker.dead or self._stopping:
            done.set_result(None)
            return
        worker.sessions -= 1

        def deliver(frame: Frame | None, error: Exception | None) -> None:
            # A session whose worker is lost meanwhile is closed as well.
            done.set_result(None)

        self._send(worker, _Request({"op": "close", "session": session._key}, (), deliver, 30.0))
        self._watch(worker)


def _complete(
    target: Future[Any] | asyncio.Future[Any],
    convert: Callable[[Frame], Any],
    frame: Frame | None,
    error: Exception | None,
) -> None:
    """Complete a future with an answer or an error, unless its waiter has given up."""
    if isinstance(target, Future) and not target.set_running_or_notify_cancel():
        return
    if frame is None:
        target.set_exception(error or SandboxUnavailableError("there is no answer"))
        return
    try:
        target.set_result(convert(frame))
    except (KeyError, IndexError, TypeError, ValueError) as problem:
        target.set_exception(SandboxUnavailableError(f"malformed result: {problem}"))


def _to_result(frame: Frame) -> ExecutionResult:
    values = frame.header["result"]
    images = tuple(
        ReturnedImage(frame.blobs[item["blob"]], item["width"], item["height"], item["name"])
        for item in values.get("images", [])
    )
    parts = tuple(
        part if isinstance(part, str) else images[part] for part in values.get("parts", [])
    )
    return ExecutionResult(
        status=ExecutionStatus(values["status"]),
        stdout=values.get("stdout", ""),
        error=values.get("error"),
        images=images,
        repairs=tuple(values.get("repairs", ())),
        duration_s=float(values.get("duration_s", 0.0)),
        parts=parts,
    )


def share_of_processors(processors: list[int], number: int, workers: int) -> list[int]:
    """Return the processors of which worker `number` gets one; none where they do not suffice."""
    count = len(processors)
    if workers > count:
        return []
    return processors[number * count // workers : (number + 1) * count // workers]


def _confine_to_processor(pid: int, number: int, workers: int) -> None:
    """Give a worker and its sessions a processor that no other worker of this job has.

    A worker runs one block at a time, and the processes of a session take turns in well under a
    millisecond. That is too fast for the kernel to place them well: it wakes one up on a busy
    processor while another has nothing to do, or far from what is in the caches. Work that is not
    confined gives way to them. Jobs that share a host choose at random where they have a choice.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    rank, ranks = local_rank()
    processors = sorted(os.sched_getaffinity(0))
    share = share_of_processors(processors, rank * workers + number, ranks * workers)
    if share:
        with contextlib.suppress(OSError):  # a policy may forbid it, which costs speed only
            os.sched_setaffinity(pid, [secrets.choice(share)])


def _tail_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, 2000, max(0, size - 2000))
    return data.decode("utf-8", "replace").strip()


def _log_layers(layers: list[list[Any]]) -> None:
    """Say once per process which isolation layers are missing."""
    missing = tuple(f"{name} ({reason})" for name, on, reason, *_ in layers if not on)
    if missing in _logged_layers:
        return
    _logged_layers.add(missing)
    if missing:
        logger.warning("sandbox layers that are off: %s", "; ".join(missing))
    else:
        logger.info("all sandbox layers are on")
