"""The sandbox of a training job: sessions for its trajectories, and the end of a job without one.

One lost session says nothing: its trajectory ends with ``sandbox_failure`` and has no score. A
sandbox in which nothing runs any more is another matter: every later score would be missing too, so
the job has to stop, as it does when its judge is dead.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Sequence

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SandboxDeadError, SandboxUnavailableError
from swift_thyme.core.summary import EndReason, TrajectorySummary
from swift_thyme.sandbox import BackendSession, InputImage, SandboxBackend, open_pool

__all__ = ["CodeSessions", "SandboxSteps", "shared_sessions"]

logger = logging.getLogger(__name__)

_CHECKS = 3
_PAUSE_S = 1.0
_MOST_FAILED_OPENINGS = 16
"""Trajectories in a row whose session cannot be opened, after which the job stops."""
_MOST_WITHOUT_SUCCESS = 16
"""Trajectories in a row that ran code of which no block succeeded, after which the sandbox is tried
again: it may be the model's code, or a disk that is full by now."""


class CodeSessions:
    """Opens sandbox sessions and knows whether the sandbox is alive.

    Args:
        pool: Runs the code.
    """

    def __init__(self, pool: SandboxBackend) -> None:
        self._pool = pool
        self._checked = False
        self._failed_openings = 0
        self._without_success = 0

    def warm_up(self) -> None:
        """Begin to start the sandbox and do not wait: engine and model load meanwhile.

        A sandbox that cannot start is left to :meth:`start`, which says why.
        """
        threading.Thread(target=self._warm_up, name="swift-thyme-warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            self._pool.start()
        except SandboxUnavailableError as error:
            logger.debug("the sandbox does not start yet: %s", error)

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

    async def ended(self, summary: TrajectorySummary) -> None:
        """Draw conclusions from a trajectory that is over.

        Args:
            summary: What it did.

        Raises:
            SandboxDeadError: The sandbox runs no program any more.
        """
        if summary.end_reason is EndReason.SANDBOX_FAILURE:
            await self.confirm()
        elif summary.blocks_ran:
            self._without_success = 0
        elif summary.blocks:
            self._without_success += 1
            if self._without_success >= _MOST_WITHOUT_SUCCESS:
                await self.confirm()
                self._without_success = 0

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


class SandboxSteps:
    """The rule for a sandbox that answers and yet serves no trajectory.

    Each failure alone has a reason that may pass. A whole step in which the sandbox failed and no
    block succeeded teaches the model nothing, and several of them in a row are a broken sandbox.

    Args:
        most: Such steps in a row, after which the job stops; None reads
            ``THYME_SANDBOX_MAX_FAILED_STEPS``.

    Raises:
        SettingsError: The variable cannot be used.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = Reader().count("THYME_SANDBOX_MAX_FAILED_STEPS") if most is None else most
        self._failed = 0

    def settle(self, summaries: Sequence[TrajectorySummary]) -> None:
        """Note the trajectories of a step, those of all processes.

        Raises:
            SandboxDeadError: It was the last of too many steps in a row.
        """
        if any(summary.blocks_ran for summary in summaries):
            self._failed = 0
            return
        failures = sum(s.end_reason is EndReason.SANDBOX_FAILURE for s in summaries)
        if not failures:
            # No code, or code that is wrong: the sandbox has nothing to do with it.
            return
        self._failed += 1
        logger.warning(
            "the sandbox failed %d of %d trajectories and ran no block (%d such steps in a row)",
            failures,
            len(summaries),
            self._failed,
        )
        if self._failed >= self._most:
            raise SandboxDeadError(
                f"the job stops: the sandbox ran no block for {self._failed} steps in a row and "
                "failed in each (THYME_SANDBOX_MAX_FAILED_STEPS); the log has the reasons, and "
                "`thyme doctor` says what to do"
            )


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
