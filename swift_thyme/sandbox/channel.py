"""Message sockets between a worker and the processes of a session, for asyncio.

One message per datagram, capped in length. The kernel attaches the sender's process id to each,
which the sender cannot choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from swift_thyme.sandbox.message_codec import Message, encode_datagram

__all__ = ["Channel", "Closed", "Datagram"]

_CREDENTIALS = struct.Struct("iII")
_MAX_DATAGRAM = 128 * 1024
_INBOX = bytearray(_MAX_DATAGRAM)


class Closed(Exception):
    """The other side is gone."""


class Datagram(NamedTuple):
    """What came, and who sent it."""

    data: bytes
    """Empty where it was too long."""
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
        """Close the worker's end, and the other one where nobody took it."""
        self.other.close()
        if self._own.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._own.fileno())
            self._own.close()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message.

        Raises:
            Closed: The other side is gone or does not read.
        """
        self.send_encoded(encode_datagram(message), descriptors)

    def send_encoded(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Do what `send` does with a message that is encoded already."""
        try:
            socket.send_fds(self._own, [data], list(descriptors))
        except OSError as error:
            raise Closed(str(error)) from error

    def receive_now(self) -> Datagram | None:
        """Return what is already there, or None.

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
        return Datagram(b"" if flags & socket.MSG_TRUNC else bytes(_INBOX[:size]), pid)

    def discard(self) -> None:
        """Throw away what is there; only where the other side does not run."""
        with contextlib.suppress(Closed):
            while self.receive_now() is not None:
                continue

    async def receive(self, timeout_s: float) -> Datagram:
        """Wait for one datagram.

        Raises:
            Closed: The other side is gone.
            asyncio.TimeoutError: Nothing came in time.
        """
        found = self.receive_now()
        if found is not None:
            return found
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
            found = self.receive_now()
            if found is not None:
                return found


def _close_received(payload: bytes) -> None:
    """Descriptors that a program sends along are unwanted; keep none open."""
    count = len(payload) // 4
    for descriptor in struct.unpack(f"{count}i", payload[: count * 4]):
        os.close(descriptor)
