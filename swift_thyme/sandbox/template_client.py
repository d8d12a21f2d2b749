"""The templates of a worker: the one that sessions are forked from, and one in reserve."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time

from swift_thyme.sandbox import linux
from swift_thyme.sandbox.channel import Channel, Closed
from swift_thyme.sandbox.keeper_client import NUDGE_EVERY_S, SessionLost
from swift_thyme.sandbox.message_codec import Message, decode_datagram
from swift_thyme.sandbox.messages import Broken, Made, MakeSession, MakeTemplate
from swift_thyme.sandbox.processes import kill_quietly
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import Confinement
from swift_thyme.sandbox.template import template_main
from swift_thyme.sandbox.wire import WireError

__all__ = ["Templates"]

_TIMEOUT_S = 20.0


class _Template:
    """The connection to one template."""

    def __init__(self) -> None:
        self.pid = 0
        self.channel = Channel()

    async def ask(self, message: Message, descriptor: int) -> int:
        """Have a process made and return its id.

        Raises:
            SessionLost: The template refuses.
            Closed: The template is gone.
            asyncio.TimeoutError: It does not answer.
        """
        self.channel.send(message, [descriptor])
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                datagram = await self.channel.receive(NUDGE_EVERY_S)
                break
            except asyncio.TimeoutError:
                if time.monotonic() > deadline:
                    raise
                kill_quietly(self.pid, signal.SIGCONT)  # something else may have stopped it
        answer: Message = decode_datagram(datagram.data, Made, Broken)
        if isinstance(answer, Made):
            return answer.pid
        assert isinstance(answer, Broken)
        raise SessionLost(f"a session could not start: {answer.reason}")

    def end(self) -> None:
        self.channel.close()
        kill_quietly(self.pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Templates:
    """Has processes forked.

    The first template is forked from the calling process, which must not have seen a request yet
    and must have one thread. Another template, made by it, waits in reserve: one that is killed
    costs no session.

    Args:
        settings: The limits of all sessions.
        confinement: Their layers.
        library_bytes: Address space that the libraries take.
    """

    def __init__(
        self, settings: SandboxSettings, confinement: Confinement, library_bytes: int
    ) -> None:
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        self._turn = asyncio.Lock()
        self._reserve: _Template | None = None
        self._current = _Template()
        other = self._current.channel.other
        pid = os.fork()
        if pid == 0:
            template_main(other, settings, confinement, library_bytes)
        self._current.pid = pid
        other.close()

    async def make_session(self, message: MakeSession, descriptor: int) -> int:
        """Have a keeper made and return its process id.

        Args:
            message: What it is told at its start.
            descriptor: The keeper's end of its connection, which stays the caller's.

        Raises:
            SessionLost: It cannot be made.
        """
        async with self._turn:
            try:
                return await self._current.ask(message, descriptor)
            except (Closed, asyncio.TimeoutError, WireError) as error:
                if self._reserve is None:
                    raise SessionLost("the process that sessions are made from is gone") from error
            sys.stderr.write("the process that sessions are made from was replaced\n")
            self._current.end()
            self._current, self._reserve = self._reserve, None
            try:
                return await self._current.ask(message, descriptor)
            except (Closed, asyncio.TimeoutError, WireError) as error:
                raise SessionLost("the process that sessions are made from is gone") from error

    async def fill_reserve(self) -> None:
        """Have a template in reserve, unless there is one.

        Raises:
            SessionLost: It cannot be made.
        """
        async with self._turn:
            if self._reserve is not None:
                return
            reserve = _Template()
            other = reserve.channel.other
            try:
                reserve.pid = await self._current.ask(MakeTemplate(), other.fileno())
            except (Closed, asyncio.TimeoutError, WireError) as error:
                reserve.channel.close()
                raise SessionLost("the process that sessions are made from is gone") from error
            finally:
                other.close()
            self._reserve = reserve

    def close(self) -> None:
        """End the templates."""
        self._current.end()
        if self._reserve is not None:
            self._reserve.end()
