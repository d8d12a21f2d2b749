"""One line of log per request: what was asked of the server and what became of it.

A line never holds text of a prompt or an answer, a header, or the query of the address. A path
comes from a stranger: it is shortened, and what could drive a terminal or begin a line is escaped.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift_thyme.inference.loop import FinishedTrajectory

__all__ = ["LogEntry", "RequestLog", "entry_of"]

logger = logging.getLogger(__name__)

_KEY = "thyme.log_entry"
_QUIET = frozenset({"/health"})
"""Asked by machines every few seconds; logged at DEBUG."""
_PATH_CHARS = 120


@dataclass(slots=True)
class LogEntry:
    """What a handler tells about its request."""

    reply_id: str | None = None
    model: str | None = None
    turns: int | None = None
    tokens: int | None = None
    """Sampled tokens, where the engine counts them."""
    end: str | None = None
    """Why it ended: the trajectory's reason, ``client_left`` or ``failed``."""

    def finish(self, finished: FinishedTrajectory) -> None:
        """Take what a whole trajectory says."""
        summary = finished.summary
        self.turns, self.tokens = summary.turns, finished.sampled_tokens
        self.end = summary.end_reason.value if summary.end_reason else None

    def words(self) -> str:
        """Return the known fields as ``name=value``."""
        fields = {
            "model": self.model,
            "turns": self.turns,
            "tokens": self.tokens,
            "end": self.end,
            "id": self.reply_id,
        }
        return "".join(f" {name}={value}" for name, value in fields.items() if value is not None)


def entry_of(scope: Scope) -> LogEntry:
    """Return the entry of a request, which a handler fills."""
    entry: LogEntry = scope.setdefault(_KEY, LogEntry())
    return entry


class RequestLog:
    """Middleware that logs a request when its reply is over.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        entry = entry_of(scope)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            logger.log(
                logging.DEBUG if scope["path"] in _QUIET else logging.INFO,
                "%s %s %d%s %.2f s",
                scope["method"],
                _shown(scope["path"]),
                status,
                entry.words(),
                time.monotonic() - started,
            )


def _shown(path: str) -> str:
    text = path[:_PATH_CHARS].encode("unicode_escape").decode("ascii")
    return text if len(path) <= _PATH_CHARS else f"{text}..."
