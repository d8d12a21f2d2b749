"""What a worker asks the keeper of a session, which it trusts."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from typing import TypeVar

from swift_thyme.sandbox.channel import Channel, Closed, Datagram
from swift_thyme.sandbox.message_codec import Message, decode_datagram
from swift_thyme.sandbox.messages import Broken, Finished, KeeperAction, KeeperOrder
from swift_thyme.sandbox.processes import descendants, kill_quietly
from swift_thyme.sandbox.wire import WireError

__all__ = ["KEEPER_TIMEOUT_S", "NUDGE_EVERY_S", "KeeperClient", "KeeperRefused", "SessionLost"]

KEEPER_TIMEOUT_S = 20.0
NUDGE_EVERY_S = 0.25
M = TypeVar("M", bound=Message)


class SessionLost(Exception):
    """The session's own processes failed; not the fault of the code."""


class KeeperRefused(SessionLost):
    """The keeper could not do what it was told."""


class KeeperClient:
    """The worker's connection to one keeper.

    Attributes:
        pid: The keeper's process id; 0 until it was forked.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._channel = Channel()

    @property
    def other(self) -> socket.socket:
        """The keeper's end of the connection."""
        return self._channel.other

    async def ask(self, message: Message, kind: type[M], descriptors: Sequence[int] = ()) -> M:
        """Send a message and return its answer.

        Args:
            message: What to do.
            kind: What the answer is where it was done.
            descriptors: Open files that go with it; they stay the caller's.

        Raises:
            KeeperRefused: It was not done.
            SessionLost: The keeper is gone or does not answer.
        """
        try:
            self._channel.send(message, descriptors)
            datagram = await self._receive()
        except asyncio.TimeoutError as error:
            raise SessionLost("the session's keeper does not answer") from error
        except Closed as error:
            raise SessionLost("the session's keeper is gone") from error
        try:
            answer: Message = decode_datagram(datagram.data, kind, Broken)
        except WireError as error:
            raise SessionLost(f"the session's keeper sent nonsense: {error}") from error
        if not isinstance(answer, kind):
            assert isinstance(answer, Broken)
            if answer.for_want_of_room:
                raise SessionLost(f"a session has no room: {answer.reason}")
            raise KeeperRefused(answer.reason)
        return answer

    async def _receive(self) -> Datagram:
        deadline = time.monotonic() + KEEPER_TIMEOUT_S
        while True:
            try:
                return await self._channel.receive(NUDGE_EVERY_S)
            except asyncio.TimeoutError:
                if time.monotonic() > deadline:
                    raise
                # Something else may have stopped it, such as an administrator or a test.
                kill_quietly(self.pid, signal.SIGCONT)

    async def order(
        self, action: KeeperAction, mapped: bool = False, descriptors: Sequence[int] = ()
    ) -> None:
        """Let the keeper do something.

        Args:
            action: What to do.
            mapped: Whether files may have been changed through memory.
            descriptors: Open files that go with it; they stay the caller's.

        Raises:
            SessionLost: It was not done.
        """
        try:
            await self.ask(KeeperOrder(action, mapped), Finished, descriptors)
        except KeeperRefused as error:
            raise KeeperRefused(f"{action.value}: {error}") from error

    def new_child(self, known: set[int]) -> int:
        """Return the keeper's descendant that is not among the known ones, or 0."""
        return next((pid for pid in descendants(self.pid) if pid not in known), 0)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
