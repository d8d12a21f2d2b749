"""What a caller asks of a worker, from its asking to its answer."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.sandbox.messages import BlockDone, CloseSession, Done, OpenSession, RunBlock

__all__ = ["Answer", "Deliver", "Request", "complete", "new_number"]

T = TypeVar("T")
Answer: TypeAlias = Done | BlockDone
Deliver: TypeAlias = Callable[[Answer | None, Exception | None], None]
"""Called once, by any thread, with the answer or with what went wrong."""

_numbers = itertools.count(1)


def new_number() -> int:
    """Return a number for a request or a session that nothing else in this process has."""
    return next(_numbers)


@dataclass(eq=False)
class Request:
    """Something that a worker is to do."""

    message: OpenSession | RunBlock | CloseSession
    deliver: Deliver
    limit_s: float
    deadline: float = math.inf
    """When the worker is taken for broken; a block that has not begun has none."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop that reads the answer; None leaves that to the pool's thread."""

    @property
    def is_block(self) -> bool:
        """Whether code runs for it."""
        return isinstance(self.message, RunBlock)


def complete(
    target: Future[T] | asyncio.Future[T],
    convert: Callable[[Answer], T],
    answer: Answer | None,
    error: Exception | None,
) -> None:
    """Complete a future with an answer or an error, unless its waiter has given up."""
    if isinstance(target, Future) and not target.set_running_or_notify_cancel():
        return
    if answer is None:
        target.set_exception(error or SandboxUnavailableError("there is no answer"))
    else:
        target.set_result(convert(answer))
