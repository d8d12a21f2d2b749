"""A worker process as the pool sees it: its start, its processor, its socket, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque

from swift_thyme.sandbox import linux
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.frames import Frame, FrameReader, Inbox
from swift_thyme.sandbox.loop_readers import LoopReaders
from swift_thyme.sandbox.message_codec import Message, encode_frame
from swift_thyme.sandbox.process_environment import worker_environment
from swift_thyme.sandbox.processes import descendants, is_stopped, kill_quietly
from swift_thyme.sandbox.processor_claims import Claim, claim_processor
from swift_thyme.sandbox.requests import Request
from swift_thyme.sandbox.sandbox_settings import SandboxSettings, local_rank

__all__ = ["WorkerProcess", "share_of_processors"]

_MOST_AT_ONCE = 1 << 20
_LAST_WORDS_BYTES = 2000


class WorkerProcess:
    """A worker process and what was asked of it. Making one starts it.

    Args:
        number: Its place in the pool.
        settings: The pool's.

    Raises:
        OSError: It cannot be started.

    Attributes:
        number: Its place in the pool.
        process: It.
        connection: The socket to it.
        started: When it was started, by `time.monotonic`.
        ready: Whether it can open sessions.
        failed: Whether nothing is to be had from it: it is to be given up.
        dead: Whether it was given up.
        waiting: What it was asked and has not answered, by identifier.
        early: What it is to be asked as soon as it is ready.
        held: Blocks that are its next ones.
        busy: Blocks that it runs.
        sessions: Sessions that it holds.
        events: What the thread's selector watches its socket for.
        readers: The event loops that read from it.
    """

    def __init__(self, number: int, settings: SandboxSettings) -> None:
        self.number = number
        self.ready = self.failed = self.dead = False
        self.waiting: dict[int, Request] = {}
        self.early: list[Request] = []
        self.held: deque[Request] = deque()
        self.busy = 0
        self.sessions = 0
        self.events = 0
        self.readers: LoopReaders | None = None
        self._frames = FrameReader()
        self._outgoing = bytearray()
        self.connection, other = socket.socketpair()
        self._errors = -1
        program = (sys.executable, "-m", "swift_thyme.sandbox.worker")
        try:
            self._errors = linux.nameless_file("thyme-sandbox-errors")
            # Started from the thread that lives as long as the pool: the parent-death signal of a
            # process follows the thread that started it.
            self.process = subprocess.Popen(
                [*program, "--descriptor", str(other.fileno())],
                env=worker_environment(settings.uses(Acceleration.HUGE_PAGES)),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(other.fileno(),),
                start_new_session=True,
            )
        except OSError:
            self.connection.close()
            if self._errors >= 0:
                os.close(self._errors)
            raise
        finally:
            other.close()
        self.started = time.monotonic()
        self.connection.setblocking(False)
        self._claim: Claim | None = None
        if settings.uses(Acceleration.AFFINITY):
            self._claim = _confine_to_processor(self.process.pid, number, settings.workers)

    @property
    def unread(self) -> int:
        """Requests whose answers no event loop reads."""
        return len(self.waiting) - (self.readers.covered if self.readers is not None else 0)

    @property
    def has_outgoing(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def write(self, message: Message | None = None) -> None:
        """Send a message, or go on with earlier ones; what the socket does not take waits.

        Raises:
            OSError: The worker is gone.
        """
        data = b"" if message is None else encode_frame(message)
        pending = self._outgoing
        if pending:
            pending += data
            data = bytes(pending)
            pending.clear()
        left = memoryview(data)
        try:
            while left:
                left = left[self.connection.send(left[:_MOST_AT_ONCE]) :]
        except BlockingIOError:
            pending += left  # the selector says when to go on

    def read(self, inbox: Inbox) -> list[Frame]:
        """Return the frames that are there.

        Raises:
            EOFError: The worker ended.
            BlockingIOError: There is nothing.
            OSError: The worker is gone.
            WireError: It sent what is no frame.
        """
        data = inbox.receive(self.connection)
        if not data:
            raise EOFError("the worker ended")
        return self._frames.feed(data)

    def wake(self) -> bool:
        """Let the worker go on where something stopped it; tell whether that was so.

        One that starts waits for children that try what this host offers.
        """
        pids = [self.process.pid, *(() if self.ready else descendants(self.process.pid))]
        stopped = [pid for pid in pids if is_stopped(pid)]
        for pid in stopped:
            kill_quietly(pid, signal.SIGCONT)
        return bool(stopped)

    def fail(self) -> None:
        """Expect nothing more of it."""
        self.failed = True
        self._outgoing.clear()

    def end(self, patience_s: float) -> str:
        """Make sure that it ends; return the last that it said.

        Args:
            patience_s: Seconds for it to end by itself, which it does once its socket is closed.
        """
        self.dead = True
        with contextlib.suppress(OSError):  # the loops that read have descriptors of their own
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._claim is not None:
            self._claim.held.close()
        size = os.fstat(self._errors).st_size
        said = os.pread(self._errors, _LAST_WORDS_BYTES, max(0, size - _LAST_WORDS_BYTES))
        os.close(self._errors)
        return said.decode("utf-8", "replace").strip()


def share_of_processors(processors: list[int], number: int, workers: int) -> list[int]:
    """Return the processors of which worker `number` gets one; none where they do not suffice."""
    count = len(processors)
    if workers > count:
        return []
    return processors[number * count // workers : (number + 1) * count // workers]


def _confine_to_processor(pid: int, number: int, workers: int) -> Claim | None:
    """Give a worker and its sessions a processor that no other worker of the host has.

    A worker runs one block at a time, and the processes of a session take turns in well under a
    millisecond. That is too fast for the kernel to place them well: it wakes one up on a busy
    processor while another has nothing to do, or far from what is in the caches. Work that is not
    confined gives way to them. Where other jobs have all processors that this worker could have,
    it is not confined, and the kernel places it.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    rank, ranks = local_rank()
    processors = sorted(os.sched_getaffinity(0))
    share = share_of_processors(processors, rank * workers + number, ranks * workers)
    claim = claim_processor(share)
    if claim is not None:
        with contextlib.suppress(OSError):  # a policy may forbid it, which costs speed only
            os.sched_setaffinity(pid, [claim.processor])
    return claim
