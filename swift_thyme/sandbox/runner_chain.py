"""The chain of a session's runners: the one that runs, and the frozen one to go back to."""

from __future__ import annotations

import asyncio
import signal
import time

from swift_thyme.sandbox.channel import Channel, Closed, Datagram
from swift_thyme.sandbox.encoder_client import EncoderClient
from swift_thyme.sandbox.keeper_client import (
    KEEPER_TIMEOUT_S,
    NUDGE_EVERY_S,
    KeeperClient,
    SessionLost,
)
from swift_thyme.sandbox.memory_group import MemoryGroup
from swift_thyme.sandbox.message_codec import Message, decode_datagram
from swift_thyme.sandbox.messages import Broken, HandOver, KeeperAction, RunnerReady
from swift_thyme.sandbox.patience import Patience
from swift_thyme.sandbox.processes import descendants, kill_quietly, kill_tree_async, looks
from swift_thyme.sandbox.session_config import Confinement
from swift_thyme.sandbox.wire import WireError

__all__ = ["Runner", "RunnerChain"]

_LOOK_EVERY_S = 0.1
_HAND_OVERS = 2
_ONE_LOST = (
    "the block before this one ended its process when its names were to be kept: they are lost"
)
_ALL_LOST = "earlier blocks interfered with the process that keeps their names: they are lost"


class Runner:
    """A runner as the worker sees it.

    Attributes:
        pid: Its process id; 0 until it is ready.
        channel: The connection to it, which no other process of the session has.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.channel = Channel()

    def end(self) -> None:
        """Kill it and close the connection."""
        kill_quietly(self.pid)
        self.channel.close()


class RunnerChain:
    """Commits and undoes the blocks of one session.

    Args:
        confinement: The layers in use.
        keeper: Who makes the first runner and looks after the files.
        encoder: Who has to know which files are no news any more.
        group: Where the session's memory is counted, if anywhere.

    Attributes:
        runner: The runner that runs the next block.
        checkpoint: The one that holds the state from before the last block; None before the first
            block was committed.
        lost: What the next block is to be told of state that could not be kept.
    """

    def __init__(
        self,
        confinement: Confinement,
        keeper: KeeperClient,
        encoder: EncoderClient,
        group: MemoryGroup | None,
    ) -> None:
        self._group = group
        self._confinement = confinement
        self._keeper = keeper
        self._encoder = encoder
        self.runner = Runner()
        self.checkpoint: Runner | None = None
        self.lost: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self.runner.channel.close()
        if self.checkpoint is not None:
            self.checkpoint.channel.close()

    async def await_first(self) -> None:
        """Wait until a runner that ran nothing of the model yet waits for work, and freeze it.

        Raises:
            SessionLost: It does not get that far.
        """
        try:
            datagram = await self._first_words()
            message: Message = decode_datagram(datagram.data, RunnerReady, Broken)
        except asyncio.TimeoutError as error:
            raise SessionLost("a session's runner does not start") from error
        except Closed as error:
            raise SessionLost("a session's runner is gone") from error
        except WireError as error:
            raise SessionLost("a session's runner sent nonsense") from error
        if isinstance(message, Broken):
            raise SessionLost(f"a session's runner failed: {message.reason}")
        self.runner.pid = datagram.pid
        kill_quietly(datagram.pid, signal.SIGSTOP)

    async def _first_words(self) -> Datagram:
        deadline = time.monotonic() + KEEPER_TIMEOUT_S
        while True:
            try:
                return await self.runner.channel.receive(NUDGE_EVERY_S)
            except asyncio.TimeoutError:
                if time.monotonic() > deadline:
                    raise
                for pid in descendants(self._keeper.pid):
                    kill_quietly(pid, signal.SIGCONT)  # something else may have stopped it

    async def commit(self, hurry: bool, mapped: bool) -> None:
        """Make the state after a block that succeeded the one to go back to.

        Args:
            hurry: The next block waits for it already.
            mapped: Whether the code has files mapped into its memory.

        Raises:
            SessionLost: The session is broken.
        """
        committed = self.runner
        # It can have ended after its report and before it was frozen, which is the code's doing.
        is_there = looks(committed.pid) is not None
        pair = await self._hand_over(committed, hurry) if is_there else None
        if pair is None:
            # Code that took our own process over, most likely: its report was a forgery, and the
            # state from before it is still there.
            await self.roll_back(mapped)
            self.lost = _ONE_LOST if self.lost is None else self.lost
            return
        previous = self.checkpoint
        self.checkpoint, self.runner = pair
        if previous is not None:
            previous.end()
        await self._end_others()
        await self._keeper.order(KeeperAction.COMMIT_FILES, mapped)
        await self._encoder.keep()

    async def roll_back(self, mapped: bool) -> None:
        """Kill what is left of a block and go back to the state from before it.

        Where code that ran before spoilt that state, names are lost and files are not.

        Args:
            mapped: Whether files may have been changed through memory.

        Raises:
            SessionLost: The session is broken.
        """
        self.runner.end()
        if self.checkpoint is not None:
            self._check_frozen(self.checkpoint)
        await self._end_all_but({self._encoder.pid, self._pid_of(self.checkpoint)})
        await self._keeper.order(KeeperAction.RESTORE_FILES, mapped)
        await self._encoder.rebase()
        if self.checkpoint is not None:
            pair = await self._hand_over(self.checkpoint, hurry=False)
            if pair is not None:
                self.checkpoint, self.runner = pair
                await self._end_others()
                return
            self.checkpoint.end()
            self.checkpoint = None
            self.lost = _ALL_LOST
            await self._end_all_but({self._encoder.pid})
        self.runner = Runner()
        await self.start_runner()

    async def start_runner(self) -> None:
        """Make a runner with the state from before the first block.

        Raises:
            SessionLost: It cannot be made.
        """
        other = self.runner.channel.other
        await self._keeper.order(KeeperAction.START_RUNNER, False, [other.fileno()])
        other.close()
        await self.await_first()

    async def _end_others(self) -> None:
        """End what a successor's parent forked besides, and forget what that said."""
        await self.end_processes(keep_runner=True)
        self.runner.channel.discard()

    async def end_processes(self, keep_runner: bool) -> None:
        """Make sure that no process of the block runs on, but a runner that succeeded.

        They may still be dying when this returns, but execute nothing any more.

        Raises:
            SessionLost: They could not be stopped.
        """
        runner = self.runner.pid
        kill_quietly(runner, signal.SIGSTOP if keep_runner else signal.SIGKILL)
        keep = {self._pid_of(self.checkpoint), self._encoder.pid}
        keep |= {runner} if keep_runner else set()
        # The system call filter lets an encoder make no process.
        childless = {self._encoder.pid} if self._confinement.seccomp else ()
        if not set(descendants(self._keeper.pid, childless)) - keep - {runner}:
            return
        if self._confinement.namespaces:
            # Stops everything in one system call, which no fork can slip through.
            await self._keeper.order(KeeperAction.FREEZE)
            for pid in descendants(self._keeper.pid):
                if pid not in keep:
                    kill_quietly(pid)
        else:
            await self._end_all_but(keep)

    async def _end_all_but(self, keep: set[int]) -> None:
        if not await kill_tree_async(self._keeper.pid, keep):
            raise SessionLost("the code's processes could not be stopped")

    async def _hand_over(self, runner: Runner, hurry: bool) -> tuple[Runner, Runner] | None:
        """Let a frozen runner fork, and freeze it and its successor.

        Returns:
            The one that holds the state and the one that runs the next block; None where code of
            the model keeps it from that.
        """
        for _ in range(_HAND_OVERS):
            successor = await self._fork(runner, hurry)
            if successor is None or await self._is_frozen(runner):
                return None if successor is None else (runner, successor)
            # Code can set a limit of processor time that ends it right after the fork. The
            # successor has the same state, and has used no time yet.
            runner.end()
            runner = successor
        runner.end()
        return None

    @staticmethod
    async def _is_frozen(runner: Runner) -> bool:
        """Wait until a process that was stopped is, and tell whether it still lives."""
        deadline = time.monotonic() + _LOOK_EVERY_S
        while True:
            look = looks(runner.pid)
            if look is None:
                return False
            if look.is_stopped or time.monotonic() > deadline:
                return True
            await asyncio.sleep(0)

    async def _fork(self, runner: Runner, hurry: bool) -> Runner | None:
        """Let a frozen runner fork once; return its successor, frozen too, if there is one."""
        successor = Runner()
        other = successor.channel.other
        try:
            runner.channel.send(HandOver(hurry), [other.fileno()])
        except Closed:
            other.close()
            successor.end()
            return None
        other.close()
        kill_quietly(runner.pid, signal.SIGCONT)
        known = {self._encoder.pid, self._pid_of(self.checkpoint), self.runner.pid} - {runner.pid}
        patience: Patience | None = None
        while True:
            try:
                datagram = await successor.channel.receive(_LOOK_EVERY_S)
                decode_datagram(datagram.data, RunnerReady)
                is_new = datagram.pid not in (0, runner.pid, *known)
            except asyncio.TimeoutError:
                if patience is None:
                    patience = Patience(self._keeper.pid, known)
                if not patience.is_over():
                    for pid in {*descendants(self._keeper.pid)} - known:
                        kill_quietly(pid, signal.SIGCONT)  # something else may have stopped it
                    continue
                is_new = False
            except (Closed, WireError):
                is_new = False
            break
        kill_quietly(runner.pid, signal.SIGSTOP)
        if not is_new:
            successor.end()
            return None
        successor.pid = datagram.pid
        kill_quietly(successor.pid, signal.SIGSTOP)
        return successor

    def _check_frozen(self, runner: Runner) -> None:
        """Raise SessionLost where a frozen process is dead and the session's code is not to blame.

        Code can neither run in it nor have it signalled, only use up the memory of its session.
        """
        over_memory = self._group is not None and self._group.has_ended_one()
        if looks(runner.pid) is None and not over_memory:
            raise SessionLost("a process that holds a session's state was ended from outside")

    @staticmethod
    def _pid_of(runner: Runner | None) -> int:
        return 0 if runner is None else runner.pid
