"""Images as they are handed around: every form in, bytes and names of formats out.

An image reaches this package as a path, as bytes, as base64 text, as a data URI, as ms-swift's dict
with ``bytes`` and ``path``, or as a PIL image. This module turns each of them into the encoded
bytes, says which format bytes are of, and makes data URIs. It looks at no pixel:
:mod:`swift_thyme.core.pictures` does. Neither fetches an address.

Every failure is an :class:`ImageError`. It names the image and holds a code, so that a caller with
error classes of its own translates in one place.
"""

from __future__ import annotations

import base64
import functools
import io
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from swift_thyme.core.errors import DataError

__all__ = [
    "Format",
    "ImageError",
    "ImageFault",
    "Located",
    "base64_bytes",
    "base64_text",
    "data_uri",
    "locate",
    "named_path",
    "read",
    "sniff",
]

_LONGEST_PATH = 4096
"""Longer text is the image itself."""
_URLSAFE = str.maketrans("-_", "+/")
_ADDRESSES = ("http://", "https://")


class ImageFault(Enum):
    """Why an image cannot be used."""

    EMPTY = "empty"
    """There is no byte in it."""
    TYPE = "type"
    """The value has a type in which no image is given."""
    URL = "url"
    """It is an address, and addresses are not fetched."""
    FILE = "file"
    """The file is missing or cannot be read."""
    BASE64 = "base64"
    """The text is neither base64 nor the path of a file."""
    FORMAT = "format"
    """The bytes are of no known image format."""
    TOO_LARGE = "too_large"
    """More bytes or pixels than the caller allows."""
    ASPECT = "aspect"
    """It is too long for its width."""
    BROKEN = "broken"
    """It does not decode to its end."""


class ImageError(DataError):
    """An image cannot be used.

    Args:
        fault: Its code.
        name: What the image is called; begins the message.
        detail: The rest of the sentence.
    """

    def __init__(self, fault: ImageFault, name: str, detail: str) -> None:
        super().__init__(f"{name} {detail}")
        self.fault = fault
        self.detail = detail


class Format(NamedTuple):
    """A format of image files."""

    name: str
    """As Pillow calls it."""
    suffix: str
    """Ending of a file's name, with the dot."""
    mime: str


_JPEG = Format("JPEG", ".jpg", "image/jpeg")
_TIFF = Format("TIFF", ".tif", "image/tiff")
_GIF = Format("GIF", ".gif", "image/gif")
_JPEG2000 = Format("JPEG2000", ".jp2", "image/jp2")
_WEBP = Format("WEBP", ".webp", "image/webp")
_AVIF = Format("AVIF", ".avif", "image/avif")
_SIGNATURES = (
    (b"\xff\xd8", _JPEG),
    (b"\x89PNG", Format("PNG", ".png", "image/png")),
    (b"GIF87a", _GIF),
    (b"GIF89a", _GIF),
    (b"II*\x00", _TIFF),
    (b"MM\x00*", _TIFF),
    (b"II+\x00", _TIFF),
    (b"MM\x00+", _TIFF),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", _JPEG2000),
    (b"\xff\x4f\xff\x51", _JPEG2000),
    (b"\x00\x00\x01\x00", Format("ICO", ".ico", "image/x-icon")),
    (b"BM", Format("BMP", ".bmp", "image/bmp")),
    *(
        (b"P%d" % kind + blank, Format("PPM", ".ppm", "image/x-portable-anymap"))
        for kind in range(1, 7)
        for blank in (b"\n", b" ", b"\t", b"\r", b"#")
    ),
)
"""First bytes of files; the first one that fits counts."""


def sniff(data: bytes) -> Format | None:
    """Return the format that the first bytes of a file claim, None where it is unknown."""
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WEBP
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return _AVIF
    return None


def data_uri(data: bytes) -> str:
    """Return an encoded image as a data URI."""
    kind = sniff(data)
    return f"data:{kind.mime if kind else 'application/octet-stream'};base64,{base64_text(data)}"


@functools.cache
def _codec() -> ModuleType:
    try:
        import pybase64
    except ImportError:
        return base64
    # The same functions, many times as fast: they use the processor's vector instructions.
    return pybase64


def base64_text(data: bytes) -> str:
    """Return bytes as base64."""
    encoded: bytes = _codec().b64encode(data)
    return encoded.decode("ascii")


def base64_bytes(text: str, name: str = "the image") -> bytes:
    """Return the bytes of base64 text, its URL-safe alphabet and line breaks included.

    Raises:
        ImageError: Other characters are in it, or its end is missing.
    """
    decode: Callable[..., bytes] = _codec().b64decode
    try:
        # Without validation foreign characters are skipped in silence.
        return decode(text, validate=True)
    except ValueError:
        pass
    try:
        return decode("".join(text.split()).translate(_URLSAFE), validate=True)
    except ValueError as error:
        raise ImageError(ImageFault.BASE64, name, f"is broken base64: {error}") from error


class Located(NamedTuple):
    """An image that was found, but not read."""

    content: bytes | Path
    """Its encoded bytes, or the file that holds them."""
    path: str | None
    """The path that the value gives, as it stands there; None where it gives none."""


def named_path(value: Any) -> str | None:
    """Return the path that a value names; None where it holds the image itself or is an address.

    Text that could be both is a path where it has a dot or begins with a slash, unless it begins
    like a JPEG in base64.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or len(value) >= _LONGEST_PATH:
        return None
    if value.startswith(("data:", *_ADDRESSES)):
        return None
    text = value.removeprefix("file://")
    return text if "." in text or (text.startswith("/") and not text.startswith("/9j/")) else None


def locate(value: Any, name: str = "the image", root: Path | None = None) -> Located:
    """Find an image in any of its forms.

    Args:
        value: A path, base64 text, a data URI, bytes, a dict with ``bytes`` or ``path``, or a PIL
            image.
        name: What the image is called in a message.
        root: Folder that relative paths start from; None takes the working folder.

    Raises:
        ImageError: There is no such file, or the value is none of these.
    """
    path = None
    if isinstance(value, Mapping):
        path = value.get("path") if isinstance(value.get("path"), str) else None
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Located(bytes(value), path or None)
    if isinstance(value, Path):
        value = str(value)
    if value is None or value == "":
        raise ImageError(ImageFault.EMPTY, name, "is empty")
    if _is_pil(value):
        return Located(_encoded(value), None)
    if not isinstance(value, str):
        raise ImageError(
            ImageFault.TYPE, name, f"is given as {type(value).__name__}, not as a path or as data"
        )
    if value.startswith("data:"):
        return Located(base64_bytes(value.partition(",")[2], name), None)
    if value.startswith(_ADDRESSES):
        raise ImageError(ImageFault.URL, name, f"is an address: {value[:200]}")
    if len(value) >= _LONGEST_PATH:
        return Located(base64_bytes(value, name), None)
    return _file_or_base64(value, name, root or Path())


def _file_or_base64(value: str, name: str, root: Path) -> Located:
    text = value.removeprefix("file://")
    is_path = named_path(value) is not None
    try:
        file = root / text
        if file.is_file():
            return Located(file, text)
    except (OSError, ValueError) as error:
        # Base64 text is no path that every file system can look up.
        if is_path:
            raise ImageError(ImageFault.FILE, name, f"{text[:200]!r}: {error}") from error
    if is_path:
        raise ImageError(ImageFault.FILE, name, f"{text[:200]!r}: no such file")
    return Located(base64_bytes(text, name), None)


def read(value: Any, name: str = "the image", root: Path | None = None) -> bytes:
    """Return the encoded bytes of an image in any of its forms; see :func:`locate`.

    Raises:
        ImageError: There is no such file, it cannot be read, or the value is no image's form.
    """
    content = locate(value, name, root).content
    if isinstance(content, bytes):
        return content
    try:
        return content.read_bytes()
    except OSError as error:
        raise ImageError(ImageFault.FILE, name, f"cannot be read: {error}") from error


def _is_pil(value: Any) -> bool:
    # Where nobody has loaded Pillow, nobody has made such an image.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _encoded(image: Any) -> bytes:
    """Return a PIL image as a file without loss."""
    from PIL import ImageOps

    # A file of our own has no EXIF, so what it says is done now.
    image = ImageOps.exif_transpose(image)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F"):
        image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if image.mode == "F" else "PNG")
    return buffer.getvalue()
