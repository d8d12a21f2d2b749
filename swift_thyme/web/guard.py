"""Who may ask, how much is read, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

__all__ = ["BodyTooLarge", "holds_token", "read_body", "unless_gone"]

T = TypeVar("T")


class BodyTooLarge(Exception):
    """The body is over the limit; the message says by how much."""


def holds_token(request: Request, token: str | None) -> bool:
    """Tell whether a request has the bearer token; where there is none, everybody has it."""
    if token is None:
        return True
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode())


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request.

    Args:
        request: Whose body it is.
        most: The most bytes that it may have.

    Raises:
        BodyTooLarge: It has more.
        ClientDisconnect: The client left.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise BodyTooLarge(f"the body has {declared} bytes, at most {most} are read")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise BodyTooLarge(f"the body has more than {most} bytes")
    return bytes(data)


async def unless_gone(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Return the result of ``work``; cancel it when the client leaves.

    Raises:
        ClientDisconnect: It left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for other in (task, gone):
            other.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        continue
