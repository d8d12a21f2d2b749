"""Pictures: from whatever a row holds to an upright RGB JPEG on disk, stored once.

A source that is an upright RGB JPEG already keeps its bytes (the published preparation encodes it
again at quality 95, which costs quality and time); it is decoded at an eighth of its size, which
reads every byte of it, to know that it is whole. Everything else becomes a JPEG of quality 95:
the first frame of an animation, turned as its EXIF says, transparency on white, 16 bits scaled to
8.

A stored file is named by the SHA-256 of the bytes that came in, so equal inputs are decoded once,
whatever row, file or process they come from.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from swift_thyme.data.reasons import Reason, RowRejected

b64decode: Callable[..., bytes]
try:
    import pybase64

    # The same function, 30 times as fast: it uses the processor's vector instructions.
    b64decode = pybase64.b64decode
except ImportError:
    b64decode = base64.b64decode

__all__ = ["ImageStore", "Picture", "normalise", "raw_bytes"]

JPEG_QUALITY = 95
MAX_ASPECT = 200
"""Qwen's processors refuse longer images."""

# Formats that Pillow decodes by itself; EPS and PDF, for example, would start other programs.
# Builds of Pillow differ in which of them they have, and know only after this call.
Image.init()
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
_FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
_ORIENTATION = 0x0112
_LONGEST_PATH = 4096
_URLSAFE = str.maketrans("-_", "+/")
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    MemoryError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    ZeroDivisionError,
    NotImplementedError,
)
"""What Pillow's decoders raise on bytes that are not what they seem."""


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
    path = None
    if isinstance(value, dict):
        path = value.get("path") or None
        value = value.get("bytes") or path
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), path if isinstance(path, str) else None
    if value is None or value == "":
        raise RowRejected(Reason.IMAGE_EMPTY, f"{name} is empty")
    if not isinstance(value, str):
        raise RowRejected(Reason.WRONG_TYPE, f"{name} is of type {type(value).__name__}")
    if value.startswith("data:"):
        return _base64(value.partition(",")[2], name), None
    if value.startswith(("http://", "https://")):
        raise RowRejected(Reason.IMAGE_URL, f"{name} is {value[:200]}")
    if len(value) >= _LONGEST_PATH:
        return _base64(value, name), None
    return _file_or_base64(value, root, name)


def _file_or_base64(value: str, root: Path, name: str) -> tuple[bytes, str | None]:
    text = value.removeprefix("file://")
    try:
        path = root / text
        if path.is_file():
            return path.read_bytes(), text
    except (OSError, ValueError) as error:
        # Base64 text is no path that every file system can look up.
        if _looks_like_path(text):
            raise RowRejected(Reason.IMAGE_FILE, f"{name}: {text[:200]!r}: {error}") from error
    if _looks_like_path(text):
        raise RowRejected(Reason.IMAGE_FILE, f"{name}: no such file: {text[:200]!r}")
    return _base64(text, name), None


def _looks_like_path(text: str) -> bool:
    # The base64 text of a JPEG begins with a slash too; no base64 text holds a dot.
    return "." in text or (text.startswith("/") and not text.startswith("/9j/"))


def _base64(text: str, name: str) -> bytes:
    try:
        # Without validation foreign characters are skipped in silence.
        return b64decode(text, validate=True)
    except ValueError:
        pass
    try:
        plain = "".join(text.split()).translate(_URLSAFE)
        return b64decode(plain, validate=True)
    except ValueError as error:
        raise RowRejected(Reason.IMAGE_BASE64, f"{name} is not base64: {error}") from error


def normalise(data: bytes, max_pixels: float, name: str = "image") -> Picture:
    """Return an image as an upright RGB JPEG.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels that are decoded.
        name: What the image is called in a message.

    Raises:
        RowRejected: It is no image, too large, too long, or broken.
    """
    if not data:
        raise RowRejected(Reason.IMAGE_EMPTY, f"{name} has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise RowRejected(Reason.IMAGE_FORMAT, f"{name} begins with {data[:12]!r}") from error
    except Image.DecompressionBombError as error:
        raise RowRejected(Reason.IMAGE_TOO_LARGE, f"{name}: {error}") from error
    except _DECODE_ERRORS as error:
        raise RowRejected(Reason.IMAGE_BROKEN, f"{name}: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise RowRejected(
            Reason.IMAGE_TOO_LARGE,
            f"{name} has {width}x{height} pixels, more than {max_pixels / 1e6:g} million",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RowRejected(Reason.IMAGE_ASPECT, f"{name} has {width}x{height} pixels")
    try:
        if _is_upright_rgb_jpeg(image):
            # Every byte is read, but little is computed: grey, at an eighth of the size.
            image.draft("L", (width // 8, height // 8))
            image.load()
            return Picture(data, width, height)
        return _encoded(image)
    except _DECODE_ERRORS as error:
        raise RowRejected(Reason.IMAGE_BROKEN, f"{name}: {error}") from error


def _is_upright_rgb_jpeg(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        # Damaged metadata say nothing about the picture.
        return 1
    return value if value in range(1, 9) else 1


def _encoded(image: Image.Image) -> Picture:
    image.load()
    turned = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    flat = _to_rgb(turned)
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Picture(buffer.getvalue(), flat.width, flat.height)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode == "P" and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA", "P") or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGB", image.size, (255, 255, 255))
        paper.paste(layered, mask=layered.getchannel("A"))
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits to 8 bits.

    Whole numbers of up to 16 bits keep their scale (65535 becomes 255); other values are stretched
    from their least to their greatest, because nothing says what white is.
    """
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0 and high <= 65535:
        scaled = values / 257.0
    elif high > low:
        scaled = (values - low) * (255.0 / (high - low))
    else:
        scaled = np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


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
            with Image.open(path, formats=("JPEG",)) as image:
                return image.width, image.height
        except (FileNotFoundError, UnidentifiedImageError):
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
