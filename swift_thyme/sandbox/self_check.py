"""The program that shows whether a sandbox works: it opens a picture and returns a part of it.

Printing a number would show less: a session without memory or disk still prints.
"""

from __future__ import annotations

import io

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, InputImage
from swift_thyme.core.protocol import OUTPUT_DIR

__all__ = ["CHECK_LIMIT_S", "CHECK_PROGRAM", "check_picture", "make_sure"]

CHECK_LIMIT_S = 30.0
"""Limit of the program; a worker that has just started is slow, which says nothing about it."""

_SIDE_PX, _CROP_PX = 64, 32

CHECK_PROGRAM = f"""
from PIL import Image
processed_path = "{OUTPUT_DIR}check.png"
Image.open(image_path).crop((0, 0, {_CROP_PX}, {_CROP_PX})).save(processed_path)
print(1 + 1)
print(processed_path)
"""

_ADVICE = {
    ExecutionStatus.MEMORY: "raise THYME_SANDBOX_MEMORY_MB",
    ExecutionStatus.TIMEOUT: "the machine is too busy, or THYME_SANDBOX_WORKERS is too high",
    ExecutionStatus.KILLED: "THYME_SANDBOX_MEMORY_MB or THYME_SANDBOX_PROCESSES may be too low",
    ExecutionStatus.ERROR: "THYME_SANDBOX_DISK_MB or the memory of the machine may be too small",
}


def check_picture() -> InputImage:
    """Return the picture that the program opens."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (_SIDE_PX, _SIDE_PX), (10, 120, 200)).save(file, "PNG")
    return InputImage("/mnt/data/images/check.png", file.getvalue())


def make_sure(result: ExecutionResult) -> None:
    """Make sure that the program did what it does in a sandbox that works.

    Args:
        result: What the program did.

    Raises:
        SandboxUnavailableError: It did something else; the message says what, and what to do.
    """
    sizes = [(image.width, image.height) for image in result.images]
    if result.ok and result.stdout.split()[:1] == ["2"] and sizes == [(_CROP_PX, _CROP_PX)]:
        return
    said = "returned no such picture" if result.ok else f"ended with {result.status}"
    reason = f": {result.error}" if result.error else ""
    advice = _ADVICE.get(result.status)
    raise SandboxUnavailableError(
        f"a program that returns a picture {said} in the sandbox{reason}"
        + (f" ({advice})" if advice else "")
    )
