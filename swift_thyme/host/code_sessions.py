"""The sandbox of a training job: sessions for its trajectories, and the end of a job without one.

One lost session says nothing: its trajectory ends with ``sandbox_failure`` and has no score. A
sandbox in which nothing runs any more is another matter: every later score would be missing too, so
the job has to stop, as it does when its judge is dead.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence

from swift_thyme.core.errors import SandboxDeadError, SandboxUnavailableError
from swift_thyme.sandbox import BackendSession, InputImage, SandboxBackend, open_pool

__all__ = ["CodeSessions", "shared_sessions"]

logger = logging.getLogger(__name__)

_CHECKS = 3
_PAUSE_S = 1.0
_MOST_FAILED_OPENINGS = 16
"""Trajectories in a row whose session cannot be opened, after which the job stops."""


class CodeSessions:
    """Opens sandbox sessions and knows whether the sandbox is alive.

    Args:
        pool: Runs the code.
    """

    def __init__(self, pool: SandboxBackend) -> None:
        self._pool = pool
        self._checked = False
        self._failed_openings = 0

    async def start(self) -> None:
        """Make sure, once, that code runs here.

        Raises:
            SandboxDeadError: It does not; the message says why.
        """
        if not self._checked:
            await self.confirm()
            self._checked = True

    async def confirm(self) -> None:
        """Find out whether the sandbox can still run a program; call it after a failure.

        Raises:
            SandboxDeadError: It cannot, however often it is tried.
        """
        for check in range(_CHECKS):
            try:
                await self._pool.check()
                return
            except SandboxUnavailableError as error:
                reason = error
                # The log has everything that the worker said; the exception is one line.
                logger.warning("the sandbox runs no program: %s", error)
            if check < _CHECKS - 1:
                await asyncio.sleep(_PAUSE_S)
        raise SandboxDeadError(
            f"the job stops because no code can be run: {_in_one_line(reason)}; "
            "`thyme doctor` says what to do"
        ) from reason

    async def open(self, images: Sequence[InputImage]) -> BackendSession:
        """Open a session; a second attempt is made where the first one met a lost worker.

        Raises:
            SandboxUnavailableError: This session cannot be opened.
            SandboxDeadError: No session can be opened any more.
        """
        try:
            session = await self._pool.open(images)
        except SandboxUnavailableError as first:
            logger.warning("a sandbox session could not be opened: %s", first)
            await self.confirm()
            try:
                session = await self._pool.open(images)
            except SandboxUnavailableError as error:
                self._failed_openings += 1
                if self._failed_openings >= _MOST_FAILED_OPENINGS:
                    raise SandboxDeadError(
                        f"the job stops: {self._failed_openings} trajectories in a row had no "
                        f"sandbox session: {_in_one_line(error)}"
                    ) from error
                raise
        self._failed_openings = 0
        return session


def _in_one_line(error: Exception) -> str:
    """Return an error's text, of a traceback in it the last line only."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    if not others:
        return first
    return f"{first.removesuffix('Traceback (most recent call last):')}{others[-1].strip()}"


@functools.cache
def shared_sessions() -> CodeSessions:
    """Return the sessions of this process, with the settings of its environment.

    Raises:
        SettingsError: An environment variable cannot be used.
    """
    return CodeSessions(open_pool())
