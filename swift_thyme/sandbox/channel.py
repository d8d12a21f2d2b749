"""Message sockets between a worker and the processes of a session, for asyncio.

Messages are JSON, one per datagram, capped in length. The kernel attaches the sender's process id
to each, which the sender cannot choose.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Channel", "Closed", "Message"]

_CREDENTIALS = struct.Struct("iII")
_MAX_MESSAGE = 128 * 1024
_INBOX = bytearray(_MAX_MESSAGE)


class Closed(Exception):
    """The other side is gone."""


class Message(NamedTuple):
    """A message and who sent it."""

    body: Any
    """The decoded JSON, or None where it is no JSON or too long."""
    pid: int
    """Process id of the sender as this process sees it, 0 where unknown."""


class Channel:
    """The worker's end of one socket pair."""

    def __init__(self) -> None:
        self._own, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._own.setblocking(False)
        self._own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def fileno(self) -> int:
        """Return the descriptor of the worker's end."""
        return self._own.fileno()

    def close(self) -> None:
        """Close the worker's end."""
        if self._own.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._own.fileno())
            self._own.close()

    def send(self, body: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send one message.

        Raises:
            Closed: The other side is gone or does not read.
        """
        data = json.dumps(body).encode()
        try:
            socket.send_fds(self._own, [data], list(descriptors))
        except OSError as error:
            raise Closed(str(error)) from error

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._own.send(data)

    def receive_now(self) -> Message | None:
        """Return a message that is already there, or None.

        Raises:
            Closed: The other side is gone.
        """
        try:
            size, ancillary, flags, _ = self._own.recvmsg_into(
                [_INBOX], socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(256)
            )
        except BlockingIOError:
            return None
        except OSError as error:
            raise Closed(str(error)) from error
        pid = 0
        for level, kind, payload in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
            elif kind == socket.SCM_RIGHTS:
                _close_received(payload)
        if not size and pid == 0:
            raise Closed("end of stream")
        if flags & socket.MSG_TRUNC:
            return Message(None, pid)
        try:
            return Message(json.loads(_INBOX[:size]), pid)
        except (ValueError, RecursionError):
            return Message(None, pid)

    async def receive(self, timeout_s: float) -> Message:
        """Wait for one message.

        Raises:
            Closed: The other side is gone.
            asyncio.TimeoutError: Nothing came in time.
        """
        message = self.receive_now()
        if message is not None:
            return message
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        deadline = loop.time() + timeout_s
        while True:
            if ready.done():
                ready = loop.create_future()
            loop.add_reader(self._own.fileno(), wake)
            try:
                await asyncio.wait_for(ready, deadline - loop.time())
            finally:
                if self._own.fileno() >= 0:
                    loop.remove_reader(self._own.fileno())
            message = self.receive_now()
            if message is not None:
                return message


def _close_received(payload: bytes) -> None:
    """Descriptors that a program sends along are unwanted; keep none open."""
    import os

    count = len(payload) // 4
    for descriptor in struct.unpack(f"{count}i", payload[: count * 4]):
        os.close(descriptor)
