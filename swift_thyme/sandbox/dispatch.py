"""The dispatcher: which worker gets what, and when a worker is given up.

The pool's thread starts the workers and looks after them. Callers hand it requests, from any thread
and any event loop. A block skips the thread in two cases: its caller sends it, and the event loop
that waits for it reads the answer (`loop_readers`). Both hold only while the block runs, so nothing
here belongs to a loop, and a loop may end at any time.

A worker runs the blocks of its sessions one after the other; a second one next to the first only
while another worker has nothing to do. A block that waits does not use up its time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import selectors
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import InputImage
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.frames import Frame, Inbox
from swift_thyme.sandbox.loop_readers import LoopReaders
from swift_thyme.sandbox.message_codec import Message, decode_frame
from swift_thyme.sandbox.messages import (
    BeginBlock,
    BlockDone,
    Broken,
    CloseSession,
    Done,
    Failed,
    FailureKind,
    OpenSession,
    RunBlock,
    Setup,
    SourceImage,
    WorkerReady,
)
from swift_thyme.sandbox.pool_thread import CLOSED, PoolThread
from swift_thyme.sandbox.requests import Answer, Request, complete, new_number
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.wire import WireError
from swift_thyme.sandbox.worker_process import WorkerProcess

__all__ = ["Dispatcher", "Seat"]

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 120.0
_REPLY_GRACE_S = 30.0
"""Seconds over its limit after which a block's worker is taken for broken and replaced."""
_OPEN_LIMIT_S = 60.0
_CLOSE_LIMIT_S = 30.0
_DEADLINE_CHECK_S = 0.5
_MAX_START_FAILURES = 3
_logged_layers: set[tuple[str, ...]] = set()


@dataclass(eq=False)
class Seat:
    """A session's place at a worker."""

    number: int = field(default_factory=new_number)
    opened: Future[None] = field(default_factory=Future)
    """Done when the session is open."""
    worker: WorkerProcess | None = None


class Dispatcher:
    """The background thread of a pool and everything it owns.

    Attributes:
        settings: The pool's.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self._is_direct = settings.uses(Acceleration.DIRECT)
        self._holds_at_worker = settings.uses(Acceleration.HELD_BLOCKS)
        self._workers: dict[int, WorkerProcess] = {}
        self._inbox = Inbox(1 << 20)
        self._next_check = 0.0
        self._failures = 0
        self._last_failure = ""
        self._starting: list[Future[None]] = []
        self._thread = PoolThread(self._check_deadlines, self._end)

    # -- called from any thread ----------------------------------------------------------------

    @property
    def owner(self) -> int:
        """The process that the thread belongs to."""
        return self._thread.owner

    @property
    def workers(self) -> list[WorkerProcess]:
        """The workers that there are, for those who look at a pool from outside."""
        return list(self._workers.values())

    def start_all(self) -> Future[None]:
        """Start all workers; the future is done when they are ready.

        Raises:
            SandboxUnavailableError: The dispatcher is closed.
        """
        done: Future[None] = Future()
        self._thread.call(lambda: self._start_all(done))
        return done

    def open(self, seat: Seat, images: list[InputImage]) -> None:
        """Begin to open a session.

        Raises:
            SandboxUnavailableError: The dispatcher is closed.
        """
        self._thread.call(lambda: self._open(seat, images))

    def run(
        self, seat: Seat, request: Request, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Send a block to its worker, which runs the session's earlier ones first.

        Args:
            seat: The session's.
            request: The block.
            loop: The calling thread's event loop, which can read the answer.

        Raises:
            SandboxUnavailableError: The dispatcher is closed.
        """
        here = self._is_direct and self._thread.call_here(lambda: self._run(seat, request, loop))
        if not here:
            self._thread.call(lambda: self._run(seat, request, None))

    def leave(self, seat: Seat, request: Request) -> None:
        """Note that nobody waits for a block any more; in the thread of its event loop."""
        if self.owner == os.getpid() and seat.worker is not None:
            with self._thread.lock:
                if seat.worker.readers is not None and not seat.worker.dead:
                    seat.worker.readers.leave(request)

    def close_session(self, seat: Seat, done: Future[None]) -> None:
        """Begin to end a session; the future is done when it is, or was already."""
        try:
            self._thread.call(lambda: self._close_session(seat, done))
        except SandboxUnavailableError:
            done.set_result(None)

    def close(self) -> None:
        """End the thread and the workers."""
        self._thread.close()

    # -- in the thread -------------------------------------------------------------------------

    def _end(self) -> None:
        for worker in self.workers:
            self._lose(worker, "the sandbox pool was closed", expected=True)
        self._fail_starting("the sandbox pool was closed")

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _DEADLINE_CHECK_S
        for worker in self.workers:
            if worker.readers is not None:
                worker.readers.drop_closed(worker.waiting.values())
            self._on_worker(worker, selectors.EVENT_READ)  # a loop may have no time for it
            if (worker.waiting or not worker.ready) and worker.wake():
                logger.warning("sandbox worker %d was stopped, and goes on now", worker.number)
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
        if sum(worker.ready for worker in self._workers.values()) == self.settings.workers:
            for done in self._starting:
                done.set_result(None)
            self._starting.clear()

    def _fail_starting(self, reason: str) -> None:
        for done in self._starting:
            done.set_exception(SandboxUnavailableError(f"the sandbox cannot start: {reason}"))
        self._starting.clear()

    def _start_worker(self, number: int) -> None:
        worker = self._workers[number] = WorkerProcess(number, self.settings)
        # Requests that callers send have deadlines that the thread does not wake up for.
        self._thread.period_s = _DEADLINE_CHECK_S

        def read() -> bool:
            self._receive(worker)
            return not (worker.dead or worker.failed)

        if self._is_direct:
            watch = partial(self._watch, worker)
            worker.readers = LoopReaders(worker.connection, self._thread.lock, read, watch)
        self._write(worker, Setup(self.settings))
        self._watch(worker)

    def _choose_worker(self) -> WorkerProcess:
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
        ready = [worker for worker in self.workers if worker.ready and not worker.failed]
        return min(ready or self.workers, key=lambda worker: worker.sessions)

    def _on_worker(self, worker: WorkerProcess, events: int) -> None:
        if events & selectors.EVENT_WRITE and not worker.dead:
            self._write(worker, None)
        if events & selectors.EVENT_READ:
            self._receive(worker)
            self._watch(worker)

    def _receive(self, worker: WorkerProcess) -> None:
        """Take what a worker sent, if there is something; in any thread."""
        if worker.dead or worker.failed:
            return
        try:
            for frame in worker.read(self._inbox):
                self._on_frame(worker, frame)
        except BlockingIOError:
            return
        except (EOFError, OSError, WireError) as error:
            self._fail(worker, str(error))

    def _watch(self, worker: WorkerProcess) -> None:
        """Let the thread wait for what nobody else takes care of."""
        if worker.dead:
            return
        events = selectors.EVENT_WRITE if worker.has_outgoing else 0
        if worker.unread or not worker.waiting:
            events |= selectors.EVENT_READ
        if events == worker.events:
            return
        self._thread.watch(
            worker.connection, worker.events, events, partial(self._on_worker, worker)
        )
        worker.events = events

    def _fail(self, worker: WorkerProcess, reason: str) -> None:
        """Let the thread give up a worker: it takes time, and whoever calls this still uses it."""
        if not worker.failed:
            worker.fail()
            with contextlib.suppress(SandboxUnavailableError):
                self._thread.call(lambda: self._lose(worker, reason))

    def _on_frame(self, worker: WorkerProcess, frame: Frame) -> None:
        if not worker.ready:
            self._on_first_frame(worker, decode_frame(frame, WorkerReady, Broken))
            return
        answer: Message = decode_frame(frame, BlockDone, Done, Failed)
        assert isinstance(answer, BlockDone | Done | Failed)
        request = worker.waiting.pop(answer.id, None)
        if request is None:
            return
        if request.is_block:
            self._end_block(worker)
        if not isinstance(answer, Failed):
            request.deliver(answer, None)
        elif answer.kind is FailureKind.CALLER:
            request.deliver(None, ValueError(answer.reason))
        else:
            request.deliver(None, SandboxUnavailableError(answer.reason))
        if worker.readers is not None:
            worker.readers.release(request)

    def _on_first_frame(self, worker: WorkerProcess, message: Message) -> None:
        if isinstance(message, Broken):
            self._lose(worker, message.reason)
            return
        assert isinstance(message, WorkerReady)
        worker.ready = True
        self._failures = 0
        _log_layers(message.missing_layers)
        early, worker.early = worker.early, []
        for request in early:
            self._send(worker, request)
        self._check_started()

    def _lose(self, worker: WorkerProcess, reason: str, expected: bool = False) -> None:
        """Give up a worker: its sessions end with an error, those of the others go on."""
        if worker.dead:
            return
        self._workers.pop(worker.number, None)
        if worker.events:
            self._thread.watch(
                worker.connection, worker.events, 0, partial(self._on_worker, worker)
            )
        said = worker.end(5.0 if expected else 0.05)
        if not expected:
            known = self._last_failure
            self._last_failure = reason if not said else f"{reason}: {said}"
            if not worker.ready:
                self._failures += 1
            # Workers that cannot start all say the same.
            if worker.ready or self._last_failure != known:
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
            if worker.readers is not None:
                worker.readers.release(request)
        self._use_idle_workers()

    # -- requests ------------------------------------------------------------------------------

    def _write(self, worker: WorkerProcess, message: Message | None) -> None:
        try:
            worker.write(message)
        except OSError as error:
            self._fail(worker, str(error))
            return
        if worker.has_outgoing or worker.events & selectors.EVENT_WRITE:
            self._watch(worker)

    def _send(self, worker: WorkerProcess, request: Request) -> None:
        gone = worker.dead or self._thread.stopping or (worker.failed and worker.ready)
        if gone:
            request.deliver(None, SandboxUnavailableError("a sandbox worker was lost"))
            return
        if not worker.ready:
            worker.early.append(request)
            return
        worker.waiting[request.message.id] = request
        if request.is_block and worker.busy and not self._has_idle_worker():
            worker.held.append(request)
            if self._holds_at_worker:
                assert isinstance(request.message, RunBlock)
                self._write(worker, replace(request.message, held=True))
        else:
            self._begin(worker, request)
            self._write(worker, request.message)

    def _begin(self, worker: WorkerProcess, request: Request) -> None:
        request.deadline = time.monotonic() + request.limit_s + _REPLY_GRACE_S
        worker.busy += request.is_block

    def _end_block(self, worker: WorkerProcess) -> None:
        """Keep account of what a worker does after a block."""
        worker.busy -= 1
        if worker.held and not worker.busy:
            request = worker.held.popleft()
            self._begin(worker, request)  # a worker that holds it does so by itself
            if not self._holds_at_worker:
                self._write(worker, request.message)
        else:
            self._use_idle_workers()

    def _has_idle_worker(self) -> bool:
        """Tell whether fewer blocks run than workers could run."""
        return sum(worker.busy for worker in self._workers.values()) < self.settings.workers

    def _use_idle_workers(self) -> None:
        """Let workers begin a second block while others have nothing to do."""
        for worker in self.workers:
            while worker.held and self._has_idle_worker():
                request = worker.held.popleft()
                self._begin(worker, request)
                told = BeginBlock(request.message.id) if self._holds_at_worker else request.message
                self._write(worker, told)

    def _open(self, seat: Seat, images: list[InputImage]) -> None:
        try:
            if self._thread.stopping:
                raise SandboxUnavailableError(CLOSED)
            worker = self._choose_worker()
        except SandboxUnavailableError as error:
            seat.opened.set_exception(error)
            return
        except BaseException:
            text = "the sandbox pool failed, see the log"
            seat.opened.set_exception(SandboxUnavailableError(text))
            raise
        seat.worker = worker
        worker.sessions += 1
        message = OpenSession(new_number(), seat.number, tuple(map(_source, images)))
        deliver = partial(complete, seat.opened, lambda _: None)
        self._send(worker, Request(message, deliver, _OPEN_LIMIT_S))
        self._watch(worker)

    def _run(self, seat: Seat, request: Request, loop: asyncio.AbstractEventLoop | None) -> None:
        worker = seat.worker
        assert worker is not None
        self._send(worker, request)
        if loop is not None and worker.readers is not None and request.message.id in worker.waiting:
            worker.readers.add(loop, request)
        self._watch(worker)

    def _close_session(self, seat: Seat, done: Future[None]) -> None:
        worker = seat.worker
        if worker is None or worker.dead or self._thread.stopping:
            done.set_result(None)
            return
        worker.sessions -= 1

        def deliver(answer: Answer | None, error: Exception | None) -> None:
            # A session whose worker is lost meanwhile is closed as well.
            done.set_result(None)

        message = CloseSession(new_number(), seat.number)
        self._send(worker, Request(message, deliver, _CLOSE_LIMIT_S))
        self._watch(worker)


def _source(image: InputImage) -> SourceImage:
    if isinstance(image.source, bytes):
        return SourceImage(image.path, None, image.source)
    return SourceImage(image.path, os.path.abspath(image.source), None)


def _log_layers(missing: tuple[str, ...]) -> None:
    """Say once per process which isolation layers are missing."""
    if missing in _logged_layers:
        return
    _logged_layers.add(missing)
    if missing:
        logger.warning("sandbox layers that are off: %s", "; ".join(missing))
    else:
        logger.info("all sandbox layers are on")
