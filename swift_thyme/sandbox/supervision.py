"""Watches a running block: its end, its output, and every limit that it can be over.

What a block's process says is taken as its end and no more: time, memory, processes, files and
output are measured from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import NamedTuple

from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.sandbox.channel import Closed
from swift_thyme.sandbox.encoder_client import EncoderClient
from swift_thyme.sandbox.file_walk import disk_use
from swift_thyme.sandbox.keeper_client import KeeperClient
from swift_thyme.sandbox.memory_group import MemoryGroup
from swift_thyme.sandbox.message_codec import decode_datagram
from swift_thyme.sandbox.messages import BlockReport, ErrorKind
from swift_thyme.sandbox.output import CappedOutput
from swift_thyme.sandbox.processes import (
    descendants,
    kill_quietly,
    looks,
    resident_bytes,
    thread_count,
    unix_sockets,
)
from swift_thyme.sandbox.runner_chain import RunnerChain
from swift_thyme.sandbox.session_config import SessionConfig
from swift_thyme.sandbox.wire import WireError

__all__ = ["Ending", "Problem", "Supervisor"]

MIB = 1024 * 1024
_WATCH_INTERVAL_S = 0.03
_READ_BYTES = 1 << 16
_SOCKET_BYTES = 208 << 10
"""What can wait in a unix socket to be read (net.core.wmem_default); no process shows it."""
ENDED = "the program ended its process"
_TAMPERED = "the code interfered with the sandbox and was stopped"
NO_REPORT = BlockReport(None, (), (), {}, True)
"""Of a block that said nothing, files may have been changed through memory."""


class Problem(NamedTuple):
    """Why a block was stopped."""

    status: ExecutionStatus
    error: str


class Ending(NamedTuple):
    """How a block ended."""

    status: ExecutionStatus
    error: str | None
    report: BlockReport


class Supervisor:
    """Supervises the blocks of one session, one at a time.

    Args:
        config: The session's surroundings.
        keeper: The ancestor of all its processes.
        encoder: The process that belongs to no block.
        chain: The runners.
        group: Where the session's memory is counted, if anywhere.

    Attributes:
        stdout: The descriptor that runners print to.
        base_resident: Bytes of memory of a runner before its first block.
    """

    def __init__(
        self,
        config: SessionConfig,
        keeper: KeeperClient,
        encoder: EncoderClient,
        chain: RunnerChain,
        group: MemoryGroup | None,
    ) -> None:
        self._group = group
        self._config = config
        self._keeper = keeper
        self._encoder = encoder
        self._chain = chain
        self._stdout, self.stdout = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stdout, False)
        self._closed = False
        self.base_resident = 0

    def close(self) -> None:
        """Close the end from which output is read; may be called while a block runs."""
        self._closed = True
        self.release()
        asyncio.get_running_loop().remove_reader(self._stdout)
        os.close(self._stdout)

    def release(self) -> None:
        """Close the end that runners print to: they have it now."""
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def drain(self) -> None:
        """Throw away output that dead processes left."""
        self.read_output(CappedOutput(_READ_BYTES))

    def read_output(self, output: CappedOutput) -> None:
        """Take what was printed and not read yet."""
        for _ in range(64):
            try:
                data = os.read(self._stdout, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                return
            output.add(data)

    async def run(self, request: bytes, timeout_s: float, output: CappedOutput) -> Ending:
        """Start a block and wait for its end or the first limit that it is over.

        Args:
            request: The encoded message that starts it.
            timeout_s: Wall-clock limit in seconds.
            output: Where its output goes.

        Raises:
            SessionLost: The session is broken.
        """
        loop = asyncio.get_running_loop()
        settings = self._config.settings
        runner = self._chain.runner
        over: asyncio.Future[Ending] = loop.create_future()

        def end(status: ExecutionStatus, error: str) -> None:
            if not over.done():
                over.set_result(Ending(status, error, NO_REPORT))

        def on_output() -> None:
            self.read_output(output)
            if output.total > settings.output_mb * MIB:
                loop.remove_reader(self._stdout)
                text = f"more than {settings.output_mb} MiB were printed"
                end(ExecutionStatus.OUTPUT_LIMIT, text)

        def on_report() -> None:
            ending = self._read_report()
            if ending is not None and not over.done():
                over.set_result(ending)

        watching: asyncio.TimerHandle

        def watch() -> None:
            nonlocal watching
            problem = self._over_limit()
            look = looks(runner.pid)
            if problem is not None:
                end(*problem)
            elif look is None and not over.done():
                on_report()  # its last words
                end(ExecutionStatus.KILLED, ENDED)
            elif look is not None and look.is_stopped:
                kill_quietly(runner.pid, signal.SIGCONT)  # something else stopped it, or it itself
            watching = loop.call_later(_WATCH_INTERVAL_S, watch)

        try:
            # Sent while it still is stopped, so that it wakes up once.
            runner.channel.send_encoded(request)
        except Closed:
            return Ending(ExecutionStatus.KILLED, ENDED, NO_REPORT)
        kill_quietly(runner.pid, signal.SIGCONT)
        late = f"the code ran longer than {timeout_s:.3g} s and was stopped"
        timer = loop.call_later(timeout_s, end, ExecutionStatus.TIMEOUT, late)
        watching = loop.call_later(_WATCH_INTERVAL_S, watch)
        loop.add_reader(self._stdout, on_output)
        loop.add_reader(runner.channel.fileno(), on_report)
        try:
            ending = await over
            killed = ending.status is ExecutionStatus.KILLED
            if killed and self._group is not None and self._group.has_ended_another():
                return Ending(ExecutionStatus.MEMORY, self._too_much_memory(), ending.report)
            return ending
        finally:
            timer.cancel()
            watching.cancel()
            if not self._closed:
                loop.remove_reader(self._stdout)
                loop.remove_reader(runner.channel.fileno())

    def over_disk_limit(self) -> Problem | None:
        """Count files where, without a mount namespace, the private folders have no size limit."""
        if self._config.base is None:
            return None
        most, inodes = self._config.disk_bytes, self._config.settings.inodes
        for folder in self._config.folders:
            size, entries = disk_use(folder, most, inodes)
            if size > most or entries > inodes:
                text = f"more than {most // MIB} MiB or {inodes} files were written"
                return Problem(ExecutionStatus.KILLED, text)
        return None

    def _read_report(self) -> Ending | None:
        """Take the first message of the block, which is its last: anything else is a forgery."""
        try:
            datagram = self._chain.runner.channel.receive_now()
        except Closed:
            return Ending(ExecutionStatus.KILLED, ENDED, NO_REPORT)
        if datagram is None:
            return None
        try:
            report = decode_datagram(datagram.data, BlockReport)
        except WireError:
            return Ending(ExecutionStatus.KILLED, _TAMPERED, NO_REPORT)
        if datagram.pid != self._chain.runner.pid:
            return Ending(ExecutionStatus.KILLED, _TAMPERED, NO_REPORT)
        if report.error is None:
            return Ending(ExecutionStatus.OK, None, report)
        memory = report.error.kind is ErrorKind.MEMORY
        status = ExecutionStatus.MEMORY if memory else ExecutionStatus.ERROR
        return Ending(status, report.error.text, report)

    def _over_limit(self) -> Problem | None:
        """Tell whether the block's processes together are over a limit."""
        settings = self._config.settings
        checkpoint = self._chain.checkpoint
        keep = {0 if checkpoint is None else checkpoint.pid, self._encoder.pid}
        pids = [pid for pid in descendants(self._keeper.pid) if pid not in keep]
        used = sum(max(0, resident_bytes(pid) - self.base_resident) for pid in pids)
        if self._group is None and self._config.confinement.namespaces:
            used += unix_sockets(self._keeper.pid) * _SOCKET_BYTES
        if used > settings.memory_mb * MIB:
            return Problem(ExecutionStatus.MEMORY, self._too_much_memory())
        # The kernel's own limit does not hold for root without a user namespace.
        if sum(map(thread_count, pids)) > settings.processes + 1:
            text = f"more than {settings.processes} processes or threads were started"
            return Problem(ExecutionStatus.KILLED, text)
        return self.over_disk_limit()

    def _too_much_memory(self) -> str:
        return f"more than {self._config.settings.memory_mb} MiB of memory were used"
