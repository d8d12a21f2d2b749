"""The sessions of a sandbox server: their names, their number, and the end of those left behind."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, InputImage
from swift_thyme.sandbox.interface import BackendSession, SandboxBackend

__all__ = ["NoRoom", "SessionTable", "UnknownSession"]

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 15.0


class NoRoom(Exception):
    """As many sessions are open as may be."""


class UnknownSession(Exception):
    """There is no session of this name, or not any more."""


@dataclass(eq=False)
class _Held:
    session: BackendSession
    blocks: int = 0
    """Blocks that run or wait."""
    used_at: float = field(default_factory=time.monotonic)
    """Monotonic time at which the last block ended."""


class SessionTable:
    """Open sessions by name. A name cannot be guessed: who has it may use the session.

    Args:
        pool: Runs the code; stays the caller's.
        most: Sessions at once.
        idle_s: Seconds without a block after which a session is closed.
    """

    def __init__(self, pool: SandboxBackend, most: int, idle_s: float) -> None:
        self._pool = pool
        self._most = most
        self._idle_s = idle_s
        self._held: dict[str, _Held] = {}
        self._opening = 0

    def __len__(self) -> int:
        return len(self._held) + self._opening

    async def open(self, images: Sequence[InputImage]) -> str:
        """Open a session and return its name; a caller that is cancelled leaves none behind.

        Raises:
            NoRoom: Too many are open.
            SandboxUnavailableError: It cannot be opened.
            ValueError: An image cannot be placed.
        """
        if len(self) >= self._most:
            raise NoRoom
        self._opening += 1
        try:
            opening = asyncio.ensure_future(self._pool.open(images))
            try:
                session = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close_orphan)
                raise
        finally:
            self._opening -= 1
        name = secrets.token_hex(16)
        self._held[name] = _Held(session)
        return name

    async def run(self, name: str, code: str, timeout_s: float) -> ExecutionResult:
        """Run a block; a session whose sandbox failed is gone after that.

        Raises:
            UnknownSession: There is none.
            SandboxUnavailableError: The sandbox failed.
            ValueError: The limit cannot be used.
        """
        held = self._find(name)
        held.blocks += 1
        try:
            return await held.session.run(code, timeout_s)
        except SandboxUnavailableError:
            if self._held.pop(name, None) is not None:
                held.session.close_later()
            raise
        finally:
            held.blocks -= 1
            held.used_at = time.monotonic()

    async def close(self, name: str) -> None:
        """End a session.

        Raises:
            UnknownSession: There is none.
        """
        held = self._find(name)
        del self._held[name]
        await held.session.close()

    async def close_all(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self.close(name) for name in list(self._held)))

    async def close_idle(self) -> None:
        """End, for ever, the sessions that nobody has used for a while."""
        while True:
            await asyncio.sleep(min(_LONGEST_PAUSE_S, self._idle_s / 4))
            before = time.monotonic() - self._idle_s
            for name, held in list(self._held.items()):
                if not held.blocks and held.used_at < before:
                    logger.warning("a session is closed: no block for %g s", self._idle_s)
                    del self._held[name]
                    held.session.close_later()

    def _find(self, name: str) -> _Held:
        try:
            return self._held[name]
        except KeyError:
            raise UnknownSession from None


def _close_orphan(opening: asyncio.Future[BackendSession]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close_later()
