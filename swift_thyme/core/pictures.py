"""Pictures: what an encoded image shows, the same for the model, for its code and for our files.

A picture is upright everywhere. Cameras store the pixels as the sensor read them and note in EXIF
(some editors in XMP) how to turn them; without this module the readers disagree. What was run, with
ms-swift 4.6, qwen_vl_utils 0.0.14, Pillow 13 and OpenCV 5 on all eight orientations:

====================================  =========================================================
reader                                what it does with the orientation
====================================  =========================================================
``cv2.imread``                        turns JPEG, PNG and WebP; not AVIF; not with
                                      ``IMREAD_UNCHANGED``; cannot read a TIFF on its side
``PIL.Image.open``                    turns TIFF only
ms-swift's ``load_image``             nothing: ``Image.open`` and ``convert("RGB")``
``qwen_vl_utils.fetch_image``         nothing; so the model sees the picture as the sensor did
browsers                              turn it
====================================  =========================================================

The rule, and who keeps it:

* the model: :mod:`swift_thyme.host.template_images` turns a picture when ms-swift has opened it;
* generated code: the sandbox shows the bytes of :func:`upright_bytes`, in which no orientation is
  left, so that OpenCV, Pillow and the rest read the same pixels;
* the size in a prompt: :attr:`Header.size` is that of the upright picture;
* stored data, the judge's images and the viewer's page: :func:`upright` before anything else.

An image that is upright already is neither decoded nor encoded for this: its header says so.

The limits of a caller are checked on the header, before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import ImageError, ImageFault
from swift_thyme.core.picture_work import check_file, check_opened

__all__ = [
    "FORMATS",
    "MAX_ASPECT",
    "Header",
    "ImageLimits",
    "decoding",
    "flat",
    "has_transparency",
    "header",
    "header_of",
    "jpeg_bytes",
    "open_image",
    "orientation",
    "upright",
    "upright_bytes",
]

JPEG_QUALITY = 95
MAX_ASPECT = 200
"""Longest side over shortest; Qwen's processors refuse longer images."""

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Jpeg2K", "Avif", "Ico")
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

# Builds of Pillow differ in which of them they have. Asking for all of its formats would load three
# times as many modules.
for _plugin in _PLUGINS:
    with contextlib.suppress(ImportError):
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")

FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
"""Formats that are decoded, as Pillow calls them: those that it decodes by itself. EPS and PDF, for
example, would start other programs."""

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
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
_METADATA = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""Where Pillow keeps what may hold an orientation."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_METADATA_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_OVERSHOOT = 0.25
"""By how much a filter may leave the range of fractions; cubic ones do by up to a fifth."""
_DEEP_BITS = (8, 10, 12, 14, 16)
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
_LOSSLESS: dict[str, dict[str, Any]] = {"TIFF": {}, "WEBP": {"lossless": True}}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be."""

    max_bytes: float = 64 * 1024 * 1024
    """Largest file."""
    max_pixels: float = 80_000_000
    """Most pixels (width x height); an 8K picture has 33 million."""
    max_aspect: float = MAX_ASPECT
    """Largest ratio of the longer side to the shorter one."""
    bounded: bool = False
    """Whether a file of a stranger is refused that takes more work than its pixels explain; files
    of data sets may be of slow formats. It holds for bytes; see :mod:`picture_work`."""


ANY_SIZE = ImageLimits(math.inf, math.inf, math.inf)
"""No limits but Pillow's own one, which a process may lift."""


class Header(NamedTuple):
    """What the header of an image says."""

    format: str
    """As Pillow calls it."""
    mode: str
    """As Pillow calls it: ``RGB``, ``L``, ``P``, …"""
    size: tuple[int, int]
    """(width, height) in pixels of the upright picture."""
    orientation: int
    """1 for upright; 2 to 8 as in EXIF."""


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Make an :class:`ImageError` of whatever a decoder raises.

    Args:
        name: What the image is called in a message.

    Raises:
        ImageError: The picture is too large or broken.
    """
    try:
        yield
    except DataError:
        raise
    except _BOMBS as error:
        raise ImageError(ImageFault.TOO_LARGE, name, f"is too large: {error}") from error
    except _DECODE_ERRORS as error:
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
        raise ImageError(ImageFault.BROKEN, name, reason) from error


def open_image(
    source: bytes | Path | IO[bytes], name: str = "the image", limits: ImageLimits = ANY_SIZE
) -> Image.Image:
    """Open an image and check it; only its header is read.

    Decode it within :func:`decoding`.

    Args:
        source: The encoded bytes, or a file of them.
        name: What the image is called in a message.
        limits: What it may be.

    Raises:
        ImageError: It is no image, its header is broken, or it is over a limit.
    """
    if isinstance(source, bytes):
        if not source:
            raise ImageError(ImageFault.EMPTY, name, "has no bytes: it is not an image")
        if len(source) > limits.max_bytes:
            detail = f"has {len(source)} bytes, at most {limits.max_bytes} are read"
            raise ImageError(ImageFault.TOO_LARGE, name, detail)
        if limits.bounded:
            check_file(source, name, limits.max_pixels)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with decoding(name):
        try:
            image: Image.Image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as error:
            detail = f"is not an image ({', '.join(FORMATS)} are read)"
            raise ImageError(ImageFault.FORMAT, name, detail) from error
    try:
        _check_sides(image.size, name, limits)
        if limits.bounded and isinstance(source, bytes):
            check_opened(image, len(source), name)
    except ImageError:
        image.close()
        raise
    return image


def _check_sides(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        most = f"{limits.max_pixels / 1e6:g} million"
        detail = f"has {width}x{height} pixels, more than the {most} allowed"
        raise ImageError(ImageFault.TOO_LARGE, name, detail)
    if min(size) < 1 or max(size) > limits.max_aspect * min(size):
        detail = f"has an aspect ratio over {limits.max_aspect:g}:1 ({width}x{height} pixels)"
        raise ImageError(ImageFault.ASPECT, name, detail)


def header(
    source: bytes | Path | IO[bytes], name: str = "the image", limits: ImageLimits = ANY_SIZE
) -> Header:
    """Return what the header of an image says; arguments and errors as :func:`open_image`."""
    with open_image(source, name, limits) as image:
        return header_of(image)


def header_of(image: Image.Image) -> Header:
    """Return what the header of an opened image says."""
    turn = orientation(image)
    width, height = image.size
    if turn in _ON_ITS_SIDE:
        # Pillow has turned the size of a TIFF already, or not, as its version goes.
        tags = getattr(image, "tag_v2", None)
        stored = (tags[_WIDTH], tags[_HEIGHT]) if tags is not None else image.size
        height, width = stored
    return Header(image.format or "", image.mode, (width, height), turn)


def orientation(image: Image.Image) -> int:
    """Return how a picture is stored: 1 for upright, 2 to 8 as in EXIF.

    Only a PNG whose metadata stand behind its pixels is decoded for this.
    """
    try:
        if image.format == "PNG" and _has_late_metadata(image):
            image.load()
        if not hasattr(image, "tag_v2") and not image.info.keys() & _METADATA:
            return 1
        # Pillow's method for PNG decodes the picture to look for metadata behind it.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        # Damaged metadata say nothing about the picture.
        return 1
    return int(value) if value in range(1, 9) else 1


def _has_late_metadata(image: Any) -> bool:
    """Tell whether a PNG that was not decoded has metadata behind its first pixels."""
    file = getattr(image, "fp", None)
    if file is None or "exif" in image.info:
        return False
    position = file.tell()
    try:
        file.seek(8)
        seen_pixels = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            seen_pixels = seen_pixels or kind == b"IDAT"
            start = file.tell()
            if seen_pixels and (
                kind == b"eXIf"
                or (kind in _TEXT_CHUNKS and file.read(32).startswith(_METADATA_KEYS))
            ):
                return True
            file.seek(start + length + 4)
    finally:
        file.seek(position)
    return False


def upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its metadata say; the same object where it is upright."""
    if orientation(image) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    # Turned once is enough: nothing may be left that says so again.
    for key in _METADATA:
        turned.info.pop(key, None)
    return turned


def upright_bytes(data: bytes, name: str = "the image") -> bytes:
    """Return an encoded image that every reader shows upright.

    An upright image comes back as it is, without a look at its pixels. Another one is encoded
    again in its own format, without loss or as a JPEG of quality 95, with no orientation in it.

    Args:
        data: The encoded image.
        name: What the image is called in a message.

    Raises:
        ImageError: It is no image, or broken.
    """
    with open_image(data, name) as image:
        if orientation(image) == 1:
            return data
        kind = image.format or ""
        with decoding(name):
            turned = upright(image)
            if kind in ("JPEG", "MPO"):
                return jpeg_bytes(turned, JPEG_QUALITY)
            buffer = io.BytesIO()
            options = _LOSSLESS.get(kind)
            if options is None:
                turned = turned if turned.mode in _PNG_MODES else turned.convert("RGBA")
                turned.save(buffer, "PNG", compress_level=1)
            else:
                turned.save(buffer, kind, **options)
            return buffer.getvalue()


def jpeg_bytes(image: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """Return a picture as a JPEG; its mode is one that a JPEG can have."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def has_transparency(image: Image.Image) -> bool:
    """Tell whether pixels of a picture may be transparent."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def flat(image: Image.Image) -> Image.Image:
    """Return a picture as RGB: transparency on white, grey of more than 8 bits scaled to 8.

    The same object where it is plain RGB already.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image).convert("RGB")
    if has_transparency(image):
        layered = image.convert("RGBA")
        paper = Image.new("RGB", image.size, (255, 255, 255))
        paper.paste(layered, mask=layered.getchannel("A"))
        return paper
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits to 8 bits.

    Files do not say what white is. Whole numbers are taken for values of 8, 10, 12, 14 or 16 bits,
    whichever holds the brightest one; fractions from 0 to 1 have white at 1, up to 255 at 255.
    A filter may have left some a little below 0 or above 1. Anything else is stretched from its
    least to its greatest value.
    """
    import numpy as np

    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if -_OVERSHOOT * high <= low and high <= 1 + _OVERSHOOT:
            values = values.clip(0.0, 1.0)
            low, high = max(low, 0.0), min(high, 1.0)
        whites: tuple[float, ...] = (1.0, 255.0)
    else:
        whites = tuple(2.0**bits - 1.0 for bits in _DEEP_BITS)
    white = next((white for white in whites if high <= white), None)
    if low >= 0 and white is not None:
        scaled = values * (255.0 / white)
    elif high > low:
        scaled = (values - low) * (255.0 / (high - low))
    else:
        scaled = np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
