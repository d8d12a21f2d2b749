"""What a worker asks the encoder of a session, which a picture may have broken into."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

from swift_thyme.sandbox.frames import Frame, FrameReader, Inbox
from swift_thyme.sandbox.keeper_client import KeeperClient, SessionLost
from swift_thyme.sandbox.message_codec import Message, decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    FindImages,
    Finished,
    ImagesFound,
    KeeperAction,
    KeepFiles,
    RebaseFiles,
)
from swift_thyme.sandbox.processes import descendants, kill_quietly
from swift_thyme.sandbox.wire import WireError

__all__ = ["EncoderBroken", "EncoderClient", "EncoderGone"]

_START_TIMEOUT_S = 10.0
_GRACE_S = 0.15
"""Seconds over the time that an encoder has, which it keeps to between two images."""
_NUDGE_EVERY_S = 0.25
_MAX_JSON_BYTES = 32 << 20
_INBOX = Inbox(1 << 18)


class EncoderBroken(Exception):
    """The encoder is gone, does not answer, or says what cannot be."""


class EncoderGone(EncoderBroken):
    """The encoder ended: an image ended it, or something from outside."""


class _Answer:
    """What the encoder answers to one request."""

    def __init__(self, frame: asyncio.Future[Frame], max_blob: int) -> None:
        self.frame = frame
        self._reader = FrameReader(_MAX_JSON_BYTES, max_blob)

    def add(self, data: bytes | memoryview) -> None:
        """Take in bytes; none means that there will be no more."""
        if not data:
            self.fail(ConnectionResetError("the encoder is gone"))
        try:
            for frame in self._reader.feed(data):
                if not self.frame.done():
                    self.frame.set_result(frame)
        except WireError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Make the asker see an error, where there is no answer yet."""
        if not self.frame.done():
            self.frame.set_exception(error)


class EncoderClient:
    """The worker's connection to the encoder of one session.

    Args:
        keeper: Who makes it.
        max_bytes: The most bytes of images that one answer can hold.

    Attributes:
        pid: The encoder's process id; 0 until it is known.
        other: The encoder's end of the connection, until it has it.
    """

    def __init__(self, keeper: KeeperClient, max_bytes: int) -> None:
        self.pid = 0
        self._keeper = keeper
        self._max_bytes = max_bytes
        self._is_new = False
        self._answer: _Answer | None = None
        self._connect()

    def _connect(self) -> None:
        self._own, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._own.setblocking(False)

    def listen(self, pid: int) -> None:
        """Begin to take what the encoder sends, in the running loop; it has its end now."""
        self.pid = pid
        self.other.close()
        asyncio.get_running_loop().add_reader(self._own.fileno(), self._on_readable)

    def close(self) -> None:
        """Close the connection."""
        if self._own.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._own.fileno())
            self._own.close()
        self.other.close()

    async def find(self, request: FindImages) -> ImagesFound:
        """Let the encoder find and read the images of a block.

        Raises:
            EncoderBroken: It cannot.
        """
        with _as_broken():
            answer = await self._ask(request, request.budget_s + _GRACE_S)
            found = decode_frame(answer, ImagesFound)
            # What it cannot have found shows that a decoder was broken into.
            if any(image.end > len(request.text) for image in found.images):
                raise WireError("an image lies outside of the text")
            return found

    async def keep(self) -> None:
        """Make the files that it looked at last no news any more.

        Raises:
            SessionLost: A new encoder, which has not looked at them, does not start.
        """
        if self._is_new:
            await self.rebase()
        else:
            with contextlib.suppress(OSError):  # a broken one is found when it is asked
                self._own.send(encode_frame(KeepFiles()))

    async def rebase(self) -> None:
        """Make the present files no news any more.

        Raises:
            SessionLost: The encoder does not start.
        """
        for _ in range(2):
            try:
                with _as_broken():
                    decode_frame(await self._ask(RebaseFiles(), _START_TIMEOUT_S), Finished)
            except EncoderBroken:
                await self.replace()
            else:
                self._is_new = False
                return
        raise SessionLost("the session's encoder does not start")

    async def replace(self) -> None:
        """Put a new encoder in the place of a broken one.

        Raises:
            SessionLost: It cannot be made.
        """
        self._is_new = True
        kill_quietly(self.pid)
        self.close()
        self._connect()
        known = set(descendants(self._keeper.pid))
        await self._keeper.order(KeeperAction.START_ENCODER, False, [self.other.fileno()])
        self.listen(self._keeper.new_child(known))

    async def _ask(self, request: Message, timeout_s: float) -> Frame:
        """Send a request and return the frame that answers it."""
        kill_quietly(self.pid, signal.SIGCONT)
        loop = asyncio.get_running_loop()
        answer = self._answer = _Answer(loop.create_future(), self._max_bytes)
        deadline = loop.time() + timeout_s
        timer: asyncio.TimerHandle

        def nudge() -> None:
            nonlocal timer
            if loop.time() >= deadline:
                answer.fail(asyncio.TimeoutError())
                return
            kill_quietly(self.pid, signal.SIGCONT)  # something else may have stopped it
            wait_s = min(_NUDGE_EVERY_S, max(0.0, deadline - loop.time()))
            timer = loop.call_later(wait_s, nudge)

        timer = loop.call_later(min(_NUDGE_EVERY_S, timeout_s), nudge)
        try:
            await self._send(encode_frame(request), timeout_s)
            return await answer.frame
        finally:
            timer.cancel()
            self._answer = None

    async def _send(self, data: bytes, timeout_s: float) -> None:
        try:
            data = data[self._own.send(data) :]
        except BlockingIOError:
            pass
        if data:
            sending = asyncio.get_running_loop().sock_sendall(self._own, data)
            await asyncio.wait_for(sending, timeout_s)

    def _on_readable(self) -> None:
        """Take what the encoder sends; where it was asked nothing, nothing is to be had."""
        answer = self._answer
        try:
            data = _INBOX.receive(self._own)
        except BlockingIOError:
            return
        except OSError as error:
            data = memoryview(b"")
            if answer is not None:
                answer.fail(error)
        if not data:
            asyncio.get_running_loop().remove_reader(self._own.fileno())
        if answer is not None:
            answer.add(data)


@contextlib.contextmanager
def _as_broken() -> Iterator[None]:
    """Make one error of all that a broken encoder can cause."""
    try:
        yield
    except ConnectionError as error:
        raise EncoderGone(str(error)) from error
    except (WireError, OSError, asyncio.TimeoutError) as error:
        raise EncoderBroken(str(error) or type(error).__name__) from error
