"""How messages between the processes of the sandbox become bytes, and messages again.

What a runner or an encoder sends may be hostile, so decoding returns a message of a kind that the
caller asks for, checked to the last field, or raises `WireError`. A sender does not check: whoever
makes a message keeps it within its limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from swift_thyme.sandbox import wire
from swift_thyme.sandbox.frames import Frame, pack, unpack
from swift_thyme.sandbox.wire import Form, WireError

__all__ = [
    "Message",
    "decode_datagram",
    "decode_frame",
    "encode_datagram",
    "encode_frame",
    "register",
]


class Message:
    """Something that one process of the sandbox says to another."""

    __slots__ = ()


M = TypeVar("M", bound=Message)
_FORMS: dict[type[Message], Form] = {}
_TAG = "kind"


def register(kinds: Iterable[object]) -> None:
    """Make the forms of those of some objects that are kinds of messages."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message:
            _FORMS[kind] = wire.record(kind)


def encode_frame(message: Message) -> bytes:
    """Return the bytes of a message on a stream."""
    blobs: list[bytes] = []
    kind = type(message)
    return pack({_TAG: kind.__name__, "fields": _FORMS[kind].write(message, blobs)}, blobs)


def decode_frame(frame: Frame, *kinds: type[M]) -> M:
    """Return the message of a frame.

    Args:
        frame: What came.
        kinds: What may have come.

    Raises:
        WireError: It is none of these.
    """
    return _decode(frame.header, frame.blobs, kinds)


def encode_datagram(message: Message) -> bytes:
    """Return the bytes of a message: JSON, or a frame where it has blobs."""
    blobs: list[bytes] = []
    kind = type(message)
    header = {_TAG: kind.__name__, "fields": _FORMS[kind].write(message, blobs)}
    return pack(header, blobs) if blobs else wire.write_json(header)


def decode_datagram(data: bytes | bytearray | memoryview, *kinds: type[M]) -> M:
    """Return the message of a datagram.

    Args:
        data: What came.
        kinds: What may have come.

    Raises:
        WireError: It is none of these.
    """
    if data[:1] == b"{":
        return _decode(wire.read_json(data), [], kinds)
    frame = unpack(data)
    return _decode(frame.header, frame.blobs, kinds)


def _decode(header: dict[str, Any], blobs: list[bytes], kinds: tuple[type[M], ...]) -> M:
    tag = header.get(_TAG)
    for kind in kinds:
        if kind.__name__ == tag and len(header) == 2:
            message: M = _FORMS[kind].read(header.get("fields"), blobs)
            return message
    raise WireError(f"no {' or '.join(kind.__name__ for kind in kinds)}")
