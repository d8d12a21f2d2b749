"""Frames between the pool and its workers: a JSON header and raw bytes, both length-capped.

Nothing is ever unpickled. `messages` says what frames hold. A frame is
`json length (4 bytes) | blob length (8 bytes) | JSON | blobs`;
the header's `"blobs"` gives the length of each blob.
"""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from swift_thyme.sandbox.wire import WireError, read_json, write_json

__all__ = ["Frame", "FrameReader", "Inbox", "pack", "unpack"]

_PREFIX = struct.Struct(">IQ")
MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_BLOB_BYTES = 1024 * 1024 * 1024


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    blobs: list[bytes]


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of one frame."""
    text = write_json({**header, "blobs": [len(blob) for blob in blobs]})
    return b"".join([_PREFIX.pack(len(text), sum(map(len, blobs))), text, *blobs])


def unpack(data: bytes | bytearray | memoryview) -> Frame:
    """Return the one frame that some bytes are, no more and no less.

    Raises:
        WireError: They are none.
    """
    if len(data) < _PREFIX.size:
        raise WireError("no frame")
    json_length, blob_length = _PREFIX.unpack_from(data)
    end = _PREFIX.size + json_length
    if json_length > MAX_JSON_BYTES or end + blob_length != len(data):
        raise WireError("a frame whose lengths are not those of its bytes")
    with memoryview(data) as view:
        header, lengths = _decode(view[_PREFIX.size : end], blob_length)
        return Frame(header, _split(view[end:], lengths))


class Inbox:
    """Receives into memory that is kept: a large buffer per message is a costly thing to ask for.

    Args:
        size: The most bytes to receive at a time.
    """

    def __init__(self, size: int) -> None:
        self._memory = memoryview(bytearray(size))

    def receive(self, connection: socket.socket) -> memoryview:
        """Return what a socket has, empty at its end; valid until the next call.

        Raises:
            OSError: As `socket.recv`.
        """
        return self._memory[: connection.recv_into(self._memory)]


class _Blobs:
    """Takes in the blobs of a frame as they come: each byte is copied once, to its own place."""

    def __init__(self, header: dict[str, Any], lengths: list[int]) -> None:
        self._header = header
        self._lengths = lengths
        self._done: list[bytes] = []
        self._blob = io.BytesIO()

    def add(self, view: memoryview) -> int:
        """Take bytes of the blobs; return how many were theirs."""
        start = 0
        while len(self._done) < len(self._lengths):
            end = start + self._lengths[len(self._done)] - self._blob.tell()
            if end > len(view):
                self._blob.write(view[start:])
                return len(view)
            self._blob.write(view[start:end])
            # The bytes are handed out as they lie there: this copies nothing.
            self._done.append(self._blob.getvalue())
            self._blob = io.BytesIO()
            start = end
        return start

    def frame(self) -> Frame | None:
        """Return the frame, None while it is not complete."""
        complete = len(self._done) == len(self._lengths)
        return Frame(self._header, self._done) if complete else None


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, max_json: int = MAX_JSON_BYTES, max_blob: int = MAX_BLOB_BYTES) -> None:
        self._buffer = bytearray()
        self._blobs: _Blobs | None = None
        self._max_json = max_json
        self._max_blob = max_blob

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Return the frames that are complete with `data`.

        Raises:
            WireError: A length is over its cap or a header is malformed.
        """
        frames: list[Frame] = []
        with memoryview(data) as view:
            start = 0 if self._blobs is None else self._fill(self._blobs, view, frames)
            if self._buffer:
                self._buffer += view
                with memoryview(self._buffer) as kept:
                    taken = self._cut(kept, 0, frames)
                del self._buffer[:taken]
            else:
                # The usual case, a whole frame at once, is cut from where it was received.
                taken = self._cut(view, start, frames)
                self._buffer += view[taken:]
        return frames

    def _cut(self, view: memoryview, start: int, frames: list[Frame]) -> int:
        """Take the frames out of `view` from `start` on; return where the rest begins."""
        while len(view) - start >= _PREFIX.size:
            json_length, blob_length = _PREFIX.unpack_from(view, start)
            if json_length > self._max_json or blob_length > self._max_blob:
                raise WireError("a frame is longer than allowed")
            body = start + _PREFIX.size
            blobs: int = body + json_length
            end = blobs + blob_length
            if len(view) < blobs:
                break
            header, lengths = _decode(view[body:blobs], blob_length)
            if len(view) < end:
                self._blobs = _Blobs(header, lengths)
                return blobs + self._fill(self._blobs, view[blobs:], frames)
            frames.append(Frame(header, _split(view[blobs:end], lengths)))
            start = end
        return start

    def _fill(self, blobs: _Blobs, view: memoryview, frames: list[Frame]) -> int:
        """Take bytes of the blobs that are awaited; return how many were theirs."""
        taken = blobs.add(view)
        frame = blobs.frame()
        if frame is not None:
            frames.append(frame)
            self._blobs = None
        return taken


def _decode(text: memoryview, blob_length: int) -> tuple[dict[str, Any], list[int]]:
    """Return the header of a frame, and the length of each of its blobs."""
    header = read_json(text)
    lengths = header.pop("blobs", None)
    if type(lengths) is not list or not all(type(n) is int and n >= 0 for n in lengths):
        raise WireError("a frame says nothing of its blobs")
    if sum(lengths) != blob_length:
        raise WireError("the blob lengths of a frame do not add up")
    return header, lengths


def _split(raw: memoryview, lengths: list[int]) -> list[bytes]:
    blobs, start = [], 0
    for length in lengths:
        blobs.append(bytes(raw[start : start + length]))
        start += length
    return blobs
