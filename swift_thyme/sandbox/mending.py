"""What a second run of a block repairs: a record of its own, part of the messages about blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from swift_thyme.sandbox import wire
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS

__all__ = ["MAX_CROPS", "CropPlace", "Mending"]

MAX_CROPS = 64
"""Places of a program whose crops a second run mends."""
_MAX_NAMES = 100

Number = Annotated[int, wire.whole(0, 1 << 31)]


@dataclass(frozen=True, slots=True)
class CropPlace:
    """A crop in a program."""

    block: Number
    """The block of the session that it is in, from 1."""
    line: Number
    end_line: Number
    end_column: Number
    """In bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Mending:
    """What a run repairs, or what a further one could."""

    names: Annotated[tuple[str, ...], wire.many(wire.text(255), _MAX_NAMES)] = ()
    """Names that are not there: aliases of cv2, and what was not imported."""
    paths: Annotated[tuple[str, ...], wire.many(wire.text(MAX_PATH_CHARS), _MAX_NAMES)] = ()
    """Files that are not there, which a variable of the program calls its input."""
    calls: Annotated[bool, wire.flag()] = False
    """Calls of image libraries that fail as they are."""
    folders: Annotated[bool, wire.flag()] = False
    """Folders that are not there, in which `cv2.imwrite` then saves nothing without a word."""
    crops: Annotated[tuple[CropPlace, ...], wire.many(wire.record(CropPlace), MAX_CROPS)] = ()
    """Places whose crops give nothing, or something around the picture."""

    def __bool__(self) -> bool:
        return self != _NO_MENDING

    def __or__(self, other: Mending) -> Mending:
        return Mending(
            tuple(dict.fromkeys(self.names + other.names))[:_MAX_NAMES],
            tuple(dict.fromkeys(self.paths + other.paths))[:_MAX_NAMES],
            self.calls or other.calls,
            self.folders or other.folders,
            tuple(dict.fromkeys(self.crops + other.crops))[:MAX_CROPS],
        )


_NO_MENDING = Mending()
