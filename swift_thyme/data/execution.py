"""Runs the code of supervised rows in the sandbox and says which rows it does not bear out.

The blocks of a row run one after the other in one session, as in a rollout; several rows run at
once. What the code does wrong rejects its row. A sandbox that fails is our failure: it ends the
job, and never a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.core.reading import read
from swift_thyme.data.reasons import Reason, RowRejected
from swift_thyme.data.rows import BuiltRow
from swift_thyme.sandbox import InputImage, SandboxBackend

__all__ = ["Executed", "execute_rows"]

SESSIONS_PER_WORKER = 2
"""Rows in progress per sandbox worker: while one runs, the next one's session opens."""


class Executed(NamedTuple):
    """What running a row's code showed."""

    problem: RowRejected | None
    """Why the row is left out, None where it is kept."""
    blocks: int
    """Blocks that ran."""
    repaired: int
    """Blocks that the sandbox had to repair to run."""


async def execute_rows(
    pool: SandboxBackend, rows: Sequence[BuiltRow], timeout_s: float | None
) -> list[Executed]:
    """Run the code of several rows at once.

    Args:
        pool: The sandbox.
        rows: Rows that passed every other check.
        timeout_s: Limit of each block (seconds); None is the sandbox's.

    Returns:
        One entry per row, in order.

    Raises:
        SandboxUnavailableError: The sandbox failed.
        SettingsError: The pictures lie where the sandbox cannot place them.
    """
    places = asyncio.Semaphore(pool.settings.workers * SESSIONS_PER_WORKER)

    async def run(row: BuiltRow) -> Executed:
        async with places:
            return await _execute(pool, row, timeout_s)

    return list(await asyncio.gather(*(run(row) for row in rows)))


async def _execute(pool: SandboxBackend, row: BuiltRow, timeout_s: float | None) -> Executed:
    response = row.output["messages"][-1]["content"]
    reading = read(response)
    programs, recorded = reading.programs, reading.outputs
    if not programs:
        return Executed(None, 0, 0)
    n_own = len(row.images) - sum(text.count(IMAGE_TAG) for text in recorded)
    images = [
        InputImage(str(image.path), image.path if image.data is None else image.data)
        for image in row.images[:n_own]
    ]
    repaired = 0
    try:
        session = await pool.open(images)
    except ValueError as error:
        raise SettingsError(f"--out: the sandbox cannot show images there: {error}") from error
    async with session:
        for number, (program, output) in enumerate(zip(programs, recorded, strict=True), 1):
            result = await session.run(program, timeout_s)
            repaired += bool(result.repairs)
            problem = None
            if not result.ok:
                detail = f"block {number}: {result.status}: {result.error or ''}"
                problem = RowRejected(Reason.CODE_FAILED, detail.rstrip(": ")[:300])
            elif len(result.images) < output.count(IMAGE_TAG):
                detail = f"block {number}: {len(result.images)} of {output.count(IMAGE_TAG)}"
                problem = RowRejected(Reason.OUTPUT_IMAGE_MISSING, detail)
            elif not result.images and not result.stdout.strip():
                problem = RowRejected(Reason.OUTPUT_MISSING, f"block {number} printed nothing")
            if problem is not None:
                return Executed(problem, number, repaired)
    return Executed(None, len(programs), repaired)
