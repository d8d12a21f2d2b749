"""What client and server of a remote sandbox say to each other by HTTP.

Bodies are frames of `messages.py`: `OpenSession` and `RunBlock` there, `Done`, `BlockDone` and
`Failed` back. A refusal that comes before the sandbox is one line of text.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["FRAME_TYPE", "Status"]

FRAME_TYPE = "application/vnd.swift-thyme.frame"
"""Content type of a frame. No form of a web page has it, so no page can post one unasked."""


class Status(IntEnum):
    """Status codes with a meaning of their own."""

    OPENED = 201
    """`Done`; the header Location names the session."""
    CALLER = 422
    """`Failed`: what was asked for cannot be had."""
    LOST = 410
    """`Failed`: the session is lost, or could not be made."""
    UNKNOWN = 404
    """There is no such session, any more."""
    FULL = 503
    """With Retry-After: no more sessions now."""
