"""The records that go into and come out of the sandbox; pure data, no processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["ExecutionResult", "ExecutionStatus", "InputImage", "ReturnedImage"]


class ExecutionStatus(str, Enum):
    """How a block ended. Everything but `OK` left the session as it was before the block."""

    OK = "ok"
    """The block ran to its end (`sys.exit(0)` counts as an end)."""
    ERROR = "error"
    """It did not compile, raised an exception, or made only images that cannot be returned."""
    TIMEOUT = "timeout"
    """It was over its wall-clock limit and was killed."""
    MEMORY = "memory"
    """It was over the memory limit of its session."""
    OUTPUT_LIMIT = "output_limit"
    """It printed more than the hard output limit and was killed."""
    KILLED = "killed"
    """Its process ended without reporting: `os._exit`, a crash in C code, a forbidden call."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class InputImage:
    """An image that generated code may read.

    Attributes:
        path: Absolute path at which the code finds it, as the prompt names it.
        source: The file to copy it from, or its encoded bytes. It is read once, when the session
            opens, and is never written.
    """

    path: str
    source: Path | bytes


@dataclass(frozen=True)
class ReturnedImage:
    """An image that a block produced, decoded and encoded again inside the sandbox.

    Attributes:
        data: PNG or JPEG bytes, RGB, each side at least 28 px and an aspect ratio of at most 200.
        width: Width in pixels.
        height: Height in pixels.
        name: Base name of the file that the block wrote; for messages only, never a path to open.
        printed: Whether the block printed its path, or showed it; else it only saved it.
    """

    data: bytes
    width: int
    height: int
    name: str
    printed: bool = True


@dataclass(frozen=True)
class ExecutionResult:
    """What one block of code did.

    Attributes:
        status: How the block ended.
        stdout: What it printed, errors and warnings in between, at most the kept number of bytes
            (head and tail, with a note).
        error: Short error for the model, or None; never holds a path of the host.
        images: The images that it printed, showed or saved, in order, each once.
        repairs: Names of the repairs that were applied, in order, each once.
        duration_s: Wall-clock seconds from the start of the block to its end.
        parts: Text and images in the order produced. A printed line that is nothing but the path
            of a returned image is left out of the text, the image stands in its place.
        program: The program as it was run, where repairs made it another one; else None.
    """

    status: ExecutionStatus
    stdout: str = ""
    error: str | None = None
    images: tuple[ReturnedImage, ...] = ()
    repairs: tuple[str, ...] = ()
    duration_s: float = 0.0
    parts: tuple[str | ReturnedImage, ...] = ()
    program: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the block ran to its end."""
        return self.status is ExecutionStatus.OK
