"""The chain of a session's runners: the one that runs, and the frozen one to go back to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket

from swift_thyme.sandbox.channel import Channel, Closed
from swift_thyme.sandbox.encoder_client import EncoderClient
from swift_thyme.sandbox.keeper_client import KEEPER_TIMEOUT_S, KeeperClient, SessionLost
from swift_thyme.sandbox.messages import (
    Broken,
    Commit,
    KeeperAction,
    Message,
    RunnerReady,
    decode_datagram,
)
from swift_thyme.sandbox.processes import descendants, kill_quietly, kill_tree_async
from swift_thyme.sandbox.session_config import Confinement
from swift_thyme.sandbox.wire import WireError

__all__ = ["RunnerChain"]

_COMMIT_TIMEOUT_S = 5.0


class RunnerChain:
    """Commits and undoes the blocks of one session.

    Args:
        confinement: The layers in use.
        keeper: Who makes the first runner and looks after the files.
        encoder: Who has to know which files are no news any more.

    Attributes:
        runner: Process id of the runner that runs the next block.
        checkpoint: Process id of the one that holds the state from before the last block; 0
            before the first block was committed.
        channel: The connection to whichever runs.
    """

    def __init__(
        self, confinement: Confinement, keeper: KeeperClient, encoder: EncoderClient
    ) -> None:
        self._confinement = confinement
        self._keeper = keeper
        self._encoder = encoder
        self.runner = 0
        self.checkpoint = 0
        self.channel = Channel()

    @property
    def other(self) -> socket.socket:
        """The runners' end of the connection."""
        return self.channel.other

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def drain(self) -> None:
        """Throw away what dead processes left in the connection."""
        with contextlib.suppress(Closed):
            while self.channel.receive_now() is not None:
                continue

    async def await_first(self) -> None:
        """Wait until a runner that ran nothing of the model yet waits for work, and freeze it.

        Raises:
            SessionLost: It does not get that far.
        """
        try:
            datagram = await self.channel.receive(KEEPER_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise SessionLost("a session's runner does not start") from error
        except Closed as error:
            raise SessionLost("a session's runner is gone") from error
        try:
            message: Message = decode_datagram(datagram.data, RunnerReady, Broken)
        except WireError as error:
            raise SessionLost("a session's runner sent nonsense") from error
        if isinstance(message, Broken):
            raise SessionLost(f"a session's runner failed: {message.reason}")
        if not self._take_on(datagram.pid):
            raise SessionLost("a session's runner is no new one")

    async def commit(self, hurry: bool) -> None:
        """Make the state after a block that succeeded the one to go back to.

        Args:
            hurry: The next block waits for it already.

        Raises:
            SessionLost: The session is broken.
        """
        committed = self.runner
        kill_quietly(committed, signal.SIGCONT)
        try:
            self.channel.send(Commit(hurry))
            datagram = await self.channel.receive(_COMMIT_TIMEOUT_S)
            decode_datagram(datagram.data, RunnerReady)
            forked = self._take_on(datagram.pid)
        except (WireError, asyncio.TimeoutError):
            forked = False
        except Closed as error:
            raise SessionLost(str(error)) from error
        if not forked:
            # Only code that took our own process over gets here: its report was a forgery, and
            # the state from before it is still there.
            await self.roll_back()
            return
        kill_quietly(committed, signal.SIGSTOP)
        previous, self.checkpoint = self.checkpoint, committed
        kill_quietly(previous)
        await self._keeper.order(KeeperAction.COMMIT_FILES)
        await self._encoder.keep()

    async def roll_back(self) -> None:
        """Kill what is left of a block and go back to the state from before it.

        Raises:
            SessionLost: The session is broken.
        """
        kill_quietly(self.runner)
        keep = {self._encoder.pid, self.checkpoint}
        if not await kill_tree_async(self._keeper.pid, keep):
            raise SessionLost("the code's processes could not be stopped")
        self.drain()
        await self._keeper.order(KeeperAction.RESTORE_FILES)
        await self._encoder.rebase()
        if self.checkpoint:
            kill_quietly(self.checkpoint, signal.SIGCONT)
            await self.await_first()
            kill_quietly(self.checkpoint, signal.SIGSTOP)
        else:
            await self._keeper.order(KeeperAction.START_RUNNER)
            await self.await_first()

    async def end_processes(self, keep_runner: bool) -> None:
        """Make sure that no process of the block runs on, but a runner that succeeded.

        They may still be dying when this returns, but execute nothing any more.

        Raises:
            SessionLost: They could not be stopped.
        """
        kill_quietly(self.runner, signal.SIGSTOP if keep_runner else signal.SIGKILL)
        keep = {self.checkpoint, self._encoder.pid} | ({self.runner} if keep_runner else set())
        # The system call filter lets an encoder make no process.
        childless = {self._encoder.pid} if self._confinement.seccomp else ()
        if not set(descendants(self._keeper.pid, childless)) - keep - {self.runner}:
            return
        if self._confinement.namespaces:
            # Stops everything in one system call, which no fork can slip through.
            await self._keeper.order(KeeperAction.FREEZE)
            for pid in descendants(self._keeper.pid):
                if pid not in keep:
                    kill_quietly(pid)
        elif not await kill_tree_async(self._keeper.pid, keep):
            raise SessionLost("the code's processes could not be stopped")

    def _take_on(self, pid: int) -> bool:
        """Make a process the runner and freeze it; tell whether it is a new one."""
        if pid in (0, self.runner, self.checkpoint):
            return False
        self.runner = pid
        kill_quietly(pid, signal.SIGSTOP)
        return True
