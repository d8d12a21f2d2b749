"""Stops a job in which ``--O3 true`` or a flag beside it would silently do nothing, or harm.

What is refused is data (:mod:`swift_thyme.host.flag_table`); this module asks each row whether the
argument object meets it. It runs when the plugin is imported: ms-swift has filled its argument
object from the command line by then, and has loaded neither a model nor a data set.
"""

from __future__ import annotations

import logging
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.host.flag_row import FlagRow, job_of
from swift_thyme.host.flag_table import JOB_ROWS, REFUSED_ROWS

__all__ = ["check_flags", "refusals", "warn_about_scheduler"]

logger = logging.getLogger(__name__)


def refusals(arguments: Any, our_scheduler: str) -> list[FlagRow]:
    """Return the rows for which a job with ``--O3 true`` is refused.

    Args:
        arguments: ms-swift's argument object, as filled from the command line.
        our_scheduler: The name of our scheduler in ms-swift's table.
    """
    job = job_of(arguments)
    whole = [row for row in JOB_ROWS if job in row.jobs]
    if whole:
        return whole
    return [
        row
        for row in REFUSED_ROWS
        if job in row.jobs
        and any(condition.is_met(arguments, our_scheduler) for condition in row.when)
    ]


def check_flags(arguments: Any, our_scheduler: str) -> None:
    """Stop a job that cannot do what its flags say.

    Args:
        arguments: ms-swift's argument object, as filled from the command line.
        our_scheduler: The name of our scheduler in ms-swift's table.

    Raises:
        SettingsError: One line that names each such flag, why, and what to use instead.
    """
    rows = refusals(arguments, our_scheduler)
    if rows:
        raise SettingsError(". ".join(row.line for row in rows))


def warn_about_scheduler(name: str, our_scheduler: str) -> None:
    """Warn where the user's own scheduler takes the place of ours, so that nothing runs code.

    Args:
        name: The scheduler that the job will use.
        our_scheduler: The name of our scheduler in ms-swift's table.
    """
    if name != our_scheduler:
        logger.warning(
            "--multi_turn_scheduler %s takes the place of %s: --O3 true runs no code in this job",
            name,
            our_scheduler,
        )
