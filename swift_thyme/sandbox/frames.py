"""Frames between the pool and its workers: a JSON header and raw bytes, both length-capped.

Nothing is ever unpickled. `messages` says what frames hold. A frame is
`json length (4 bytes) | blob length (8 bytes) | JSON | blobs`;
the header's `"blobs"` gives the length of each blob.
"""

from __future__ import annotations

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


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, max_json: int = MAX_JSON_BYTES, max_blob: int = MAX_BLOB_BYTES) -> None:
        self._buffer = bytearray()
        self._max_json = max_json
        self._max_blob = max_blob

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Return the frames that are complete with `data`.

        Raises:
            WireError: A length is over its cap or a header is malformed.
        """
        frames: list[Frame] = []
        if self._buffer:
            self._buffer += data
            with memoryview(self._buffer) as view:
                taken = self._cut(view, frames)
            del self._buffer[:taken]
        else:
            # The usual case, a whole frame at once, is cut from where it was received.
            with memoryview(data) as view:
                taken = self._cut(view, frames)
                self._buffer += view[taken:]
        return frames

    def _cut(self, view: memoryview, frames: list[Frame]) -> int:
        """Take the complete frames out of `view`; return how many bytes they have."""
        start = 0
        while len(view) - start >= _PREFIX.size:
            json_length, blob_length = _PREFIX.unpack_from(view, start)
            if json_length > self._max_json or blob_length > self._max_blob:
                raise WireError("a frame is longer than allowed")
            body = start + _PREFIX.size
            end = body + json_length + blob_length
            if len(view) < end:
                break
            frames.append(_decode(view[body : body + json_length], view[body + json_length : end]))
            start = end
        return start


def _decode(text: memoryview, raw: memoryview) -> Frame:
    header = read_json(text)
    lengths = header.pop("blobs", None)
    if type(lengths) is not list or not all(type(n) is int and n >= 0 for n in lengths):
        raise WireError("a frame says nothing of its blobs")
    if sum(lengths) != len(raw):
        raise WireError("the blob lengths of a frame do not add up")
    blobs, start = [], 0
    for length in lengths:
        blobs.append(bytes(raw[start : start + length]))
        start += length
    return Frame(header, blobs)


def unpack(data: bytes) -> Frame:
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
        return _decode(view[_PREFIX.size : end], view[end:])
