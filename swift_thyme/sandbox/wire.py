"""Frames between the pool and its workers: a JSON header and raw bytes, both length-capped.

Nothing is ever unpickled. A frame is
`json length (4 bytes) | blob length (8 bytes) | JSON | blobs`;
the header's `"blobs"` gives the length of each blob.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Frame", "FrameReader", "WireError", "pack"]

_PREFIX = struct.Struct(">IQ")
MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_BLOB_BYTES = 1024 * 1024 * 1024


class WireError(ValueError):
    """The other side sent something that is no frame."""


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    blobs: list[bytes]


def pack(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return the bytes of one frame."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    return b"".join([_PREFIX.pack(len(text), sum(map(len, blobs))), text, *blobs])


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, max_json: int = MAX_JSON_BYTES, max_blob: int = MAX_BLOB_BYTES) -> None:
        self._buffer = bytearray()
        self._max_json = max_json
        self._max_blob = max_blob

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with `data`.

        Raises:
            WireError: A length is over its cap or a header is malformed.
        """
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            json_length, blob_length = _PREFIX.unpack_from(self._buffer)
            if json_length > self._max_json or blob_length > self._max_blob:
                raise WireError("a frame is longer than allowed")
            end = _PREFIX.size + json_length + blob_length
            if len(self._buffer) < end:
                return
            raw = bytes(self._buffer[_PREFIX.size : end])
            del self._buffer[:end]
            yield _decode(raw[:json_length], raw[json_length:])


def _decode(text: bytes, raw: bytes) -> Frame:
    try:
        header = json.loads(text)
        lengths = header.pop("blobs")
        if not all(isinstance(n, int) and n >= 0 for n in lengths) or sum(lengths) != len(raw):
            raise WireError("the blob lengths of a frame do not add up")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise WireError(f"malformed frame header: {error}") from error
    blobs, start = [], 0
    for length in lengths:
        blobs.append(raw[start : start + length])
        start += length
    return Frame(header, blobs)
