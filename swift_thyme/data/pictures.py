"""Pictures: from whatever a row holds to an upright RGB JPEG on disk, stored once.

A source that is an upright RGB JPEG already keeps its bytes (the published preparation encodes it
again at quality 95, which costs quality and time); it is decoded at an eighth of its size, which
reads every byte of it, to know that it is whole. Everything else becomes a JPEG of quality 95:
the first frame of an animation, turned as its EXIF says, transparency on white, deep grey scaled
to 8 bits. How this is done is :mod:`swift_thyme.core.pictures`' business.

A stored file is named by the SHA-256 of the bytes that came in, so equal inputs are decoded once,
whatever row, file or process they come from.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.core import images
from swift_thyme.core.images import ImageError, ImageFault
from swift_thyme.core.pictures import (
    ImageLimits,
    decoding,
    flat,
    header,
    jpeg_bytes,
    open_image,
    orientation,
    upright,
)
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = ["ImageStore", "Picture", "normalise", "raw_bytes"]

_REASONS = {
    ImageFault.EMPTY: Reason.IMAGE_EMPTY,
    ImageFault.TYPE: Reason.WRONG_TYPE,
    ImageFault.URL: Reason.IMAGE_URL,
    ImageFault.FILE: Reason.IMAGE_FILE,
    ImageFault.BASE64: Reason.IMAGE_BASE64,
    ImageFault.FORMAT: Reason.IMAGE_FORMAT,
    ImageFault.TOO_LARGE: Reason.IMAGE_TOO_LARGE,
    ImageFault.ASPECT: Reason.IMAGE_ASPECT,
    ImageFault.BROKEN: Reason.IMAGE_BROKEN,
}


@contextlib.contextmanager
def _rejecting() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise RowRejected(_REASONS[error.fault], str(error)) from error


class Picture(NamedTuple):
    """An upright RGB JPEG."""

    data: bytes
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def raw_bytes(value: Any, root: Path, name: str) -> tuple[bytes, str | None]:
    """Return the bytes of an image as a row holds it, and the path it was read from.

    Args:
        value: Base64 text, a data URI, a path, bytes, or ``{"bytes": ..., "path": ...}``.
        root: Folder that relative paths start from.
        name: What the image is called in a message.

    Raises:
        RowRejected: There is no such file, or the value is none of these.
    """
    with _rejecting():
        found = images.locate(value, name, root)
        if isinstance(found.content, bytes):
            return found.content, found.path
        return images.read(found.content, name), found.path


def normalise(data: bytes, max_pixels: float, name: str = "image") -> Picture:
    """Return an image as an upright RGB JPEG.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels that are decoded.
        name: What the image is called in a message.

    Raises:
        RowRejected: It is no image, too large, too long, or broken.
    """
    with _rejecting(), open_image(data, name, ImageLimits(math.inf, max_pixels)) as image:
        width, height = image.size
        with decoding(name):
            if image.format == "JPEG" and image.mode == "RGB" and orientation(image) == 1:
                # Every byte is read, but little is computed: grey, at an eighth of the size.
                image.draft("L", (width // 8, height // 8))
                image.load()
                return Picture(data, width, height)
            plain = flat(upright(image))
            return Picture(jpeg_bytes(plain), plain.width, plain.height)


class ImageStore:
    """Stores pictures by the hash of the bytes that they came from.

    Safe to use from several processes at once: a file appears under its name when it is complete.

    Args:
        root: Folder of the pictures.
        scratch: Folder on the same file system for files in the making.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root = root
        self._scratch = scratch

    def path(self, data: bytes) -> Path:
        """Return where the picture made from these bytes is, or will be."""
        digest = hashlib.sha256(data).hexdigest()[:40]
        return self._root / digest[:2] / digest[2:4] / f"{digest[4:]}.jpg"

    def size(self, path: Path) -> tuple[int, int] | None:
        """Return (width, height) of a stored picture, None where it is not stored."""
        try:
            return header(path).size
        except ImageError:
            # An empty file can be left behind by a loss of power; it is written again.
            return None

    def put(self, path: Path, data: bytes) -> None:
        """Store a picture under a path of :meth:`path`."""
        temporary = self._scratch / uuid.uuid4().hex
        temporary.write_bytes(data)
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
