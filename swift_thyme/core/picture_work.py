"""Image files that take more work than their pixels explain, refused before a decoder sees them.

A limit on pixels bounds the work of a decoder, not that of reading a header, and not that of
formats that are decoded in Python. The figures are those of Pillow 13 on one core, of files that
were made for this:

=====================================================  ===========================================
file                                                   time without the check
=====================================================  ===========================================
PPM as text, in colour; PPM of other than 256 levels   1.0 to 1.4 s per megapixel
BMP with run lengths                                   0.04 to 0.25 s, 0.1 s per MB of empty runs
JPEG, 40,000 EXIF segments (4 MB)                      6 s, growing with the square
JPEG, 2,000 empty scans (4000x4000, 0.1 MB)            2 s; 0.6 ms per scan and megapixel at most
TIFF, 400,000 strips of half the picture (2 MB)        18 s for one megapixel
PNG, 200,000 empty text chunks (3 MB)                  0.3 s
GIF, 2,000,000 pieces of one byte in a comment (4 MB)  0.4 s
=====================================================  ===========================================

All others of the formats that are read take 0.002 to 0.07 s per megapixel of noise, JPEG 2000
without loss 0.4 s. The check of an ordinary file of 0.7 to 3 MB takes less than 10 microseconds,
that of a progressive JPEG of 1 MB 0.8 ms, because its scans are counted.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from PIL import Image

from swift_thyme.core.images import ImageError, ImageFault, sniff

__all__ = ["check_file", "check_opened", "is_lossy"]

_MAX_SEGMENTS = 512
"""Segments of a JPEG before its first scan; a colour profile has up to 255."""
_MAX_METADATA = 8 << 20
_MAX_EXIF = 1 << 20
_MAX_JUNK = 1 << 16
_MAX_SCANS = 100
"""Pillow writes 10 into a progressive JPEG. A scan of few bytes takes up to 0.6 ms per megapixel,
one of many bytes more; those are bounded by the size of the file."""
_MAX_CHUNKS = 100_000
_MAX_OTHER_CHUNKS = 512
_MAX_SUB_BLOCKS = 20_000
_MAX_TAGS = 4096
_MAX_VALUES = 1 << 17
"""Numbers in one TIFF tag: strips or tiles of the picture, which Pillow visits one by one."""
_MAX_TILES = 1 << 14
_MAX_MARKERS = 1024
_SLOW_PIXELS = 1_000_000
"""Most pixels of an image that is decoded in Python, which takes about a second for them."""

_SCAN_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_PIXEL_CHUNKS = (b"IDAT", b"fdAT", b"fcTL")
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def _refuse(name: str, what: str) -> ImageError:
    return ImageError(ImageFault.TOO_LARGE, name, f"takes too long to decode: {what}")


def check_file(data: bytes, name: str, max_pixels: float) -> None:
    """Refuse a file whose header alone takes long, or whose format has no bound.

    Args:
        data: The encoded image; bytes of no image format pass.
        name: What the image is called in a message.
        max_pixels: Most pixels (width x height), for formats that ask for memory when opened.

    Raises:
        ImageError: It takes more work than its pixels explain.
    """
    kind = sniff(data)
    check = None if kind is None else _CHECKS.get(kind.name)
    if check is None:
        return
    try:
        problem = check(data, max_pixels)
    except (struct.error, IndexError):
        return  # it ends early, which the decoder says
    if problem is not None:
        raise _refuse(name, problem)


def check_opened(image: Image.Image, n_bytes: int, name: str) -> None:
    """Refuse an image that was opened where decoding it takes more work than its pixels explain.

    Args:
        image: An image that Pillow opened; no pixel is decoded.
        n_bytes: Size of its file.
        name: What the image is called in a message.

    Raises:
        ImageError: It takes too long.
    """
    tiles: list[Any] = getattr(image, "tile", [])
    area = image.width * image.height
    if any(tile[0] in Image.DECODERS for tile in tiles) and (
        area > _SLOW_PIXELS or n_bytes > 8 * area + _MAX_JUNK
    ):
        most = _SLOW_PIXELS / 1e6
        raise _refuse(name, f"a {image.format} of this kind can have {most:g} million pixels")
    if len(tiles) > 1:
        # A planar picture has one layer for each of its colours. More than that is decoded often.
        work = sum(abs((right - left) * (low - top)) for _, (left, top, right, low), *_ in tiles)
        if work > 8 * area:
            raise _refuse(name, "its parts lie on each other")
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and len(exif) > _MAX_EXIF:
        raise _refuse(name, "it has too much EXIF data")


def is_lossy(data: bytes) -> bool:
    """Tell whether the format of an image file has lost a part of the picture already."""
    kind = sniff(data)
    if kind is None:
        return False
    if kind.name == "WEBP":
        # The chunk of the picture comes after those of metadata: colours, transparency, frames.
        return _webp_picture(data) == b"VP8 "
    if kind.name == "JPEG2000":
        style = data.find(b"\xff\x52")  # the last byte of this segment: 0 for the lossy wavelet
        return 0 <= style < len(data) - 13 and data[style + 13] == 0
    return kind.name in ("JPEG", "AVIF")


def _jpeg(data: bytes, max_pixels: float) -> str | None:
    position, components, sequential = 2, -1, False
    for _ in range(_MAX_SEGMENTS):
        start = data.find(b"\xff", position)
        if start < 0 or start - position > _MAX_JUNK:
            break
        marker = data[start + 1]
        if marker == 0xFF:
            position = start + 1
            continue
        if marker in (0x00, 0x01, 0xC8) or 0xD0 <= marker <= 0xD9 or 0xF0 <= marker <= 0xFD:
            position = start + 2
            continue
        if marker == 0xDA:
            # One scan of all colours without progression is read to its end, and nothing else.
            if sequential and data[start + 4] == components:
                return None
            return _scans(data, start)
        (length,) = struct.unpack_from(">H", data, start + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xCC):
            components, sequential = data[start + 9], marker in (0xC0, 0xC1)
        position = start + 2 + max(length, 2)
        if position > _MAX_METADATA:
            return "it has too much metadata"
    else:
        return "it has too many segments"
    if len(data) - position > _MAX_JUNK:
        return "it has bytes between its segments"
    return None


def _scans(data: bytes, position: int) -> str | None:
    # Bytes of a thumbnail or behind the picture can look like the start of a scan.
    if data.count(b"\xff\xda", position) <= _MAX_SCANS:
        return None
    scans = 0
    while (found := _SCAN_MARKER.search(data, position)) is not None:
        position = found.start()
        marker = data[position + 1]
        if marker == 0xD9:
            return None
        scans += marker == 0xDA
        if scans > _MAX_SCANS:
            return f"it has more than {_MAX_SCANS} scans"
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + max(length, 2)
    return None


def _png(data: bytes, max_pixels: float) -> str | None:
    position = 8
    others = 0
    for _ in range(_MAX_CHUNKS):
        if position >= len(data):
            return None
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return None
        if kind not in _PIXEL_CHUNKS:
            others += 1
            if length > (_MAX_EXIF if kind == b"eXIf" else _MAX_METADATA):
                return "it has too much metadata"
            if others > _MAX_OTHER_CHUNKS:
                break
        position += length + 12
    return "it has too many chunks"


def _gif(data: bytes, max_pixels: float) -> str | None:
    flags = data[10]
    position = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    pieces = 0
    while data[position] != 0x2C:
        if data[position] != 0x21:
            position += 1
        else:
            position += 2
            while data[position]:
                position += data[position] + 1
                pieces += 1
                if pieces > _MAX_SUB_BLOCKS:
                    break
            position += 1
        pieces += 1
        if pieces > _MAX_SUB_BLOCKS:
            return "it has too many blocks before its picture"
    return None


def _webp_picture(data: bytes) -> bytes:
    """Return the name of the chunk that holds the first picture; empty where there is none."""
    position = 12
    for _ in range(64):
        kind = data[position : position + 4]
        if kind in (b"VP8 ", b"VP8L"):
            return kind
        if kind == b"ANMF":
            position += 24
            continue
        size = data[position + 4 : position + 8]
        position += 8 + (int.from_bytes(size, "little") + 1) // 2 * 2
    return b""


def _webp(data: bytes, max_pixels: float) -> str | None:
    # The decoder asks for memory for all of the picture when the file is opened.
    if data[12:16] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    else:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    if width * height > max_pixels:
        return f"it has {width}x{height} pixels, more than the {max_pixels / 1e6:g} million allowed"
    return None


def _tiff(data: bytes, max_pixels: float) -> str | None:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (position,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, position)
    if count > _MAX_TAGS:
        return "it has too many tags"
    entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHI4x")
    position += 8 if big else 2
    for number in range(count):
        _, kind, values = entry.unpack_from(data, position + number * entry.size)
        # Bytes are not visited one by one; what the file cannot hold is left out by the decoder.
        if values > _MAX_VALUES and values * _TIFF_SIZES.get(kind, len(data)) <= len(data):
            return f"a tag of it has {values} values"
    return None


def _ppm(data: bytes, max_pixels: float) -> str | None:
    if data[1:2] in b"123":
        return "it is written as text; a PNG, a JPEG or a binary PPM does not"
    header = re.sub(rb"#[^\r\n]*", b"", data[:4096]).split(None, 4)
    if len(header) < 4 and len(data) > 4096:
        return "its header is too long"
    return None


def _jpeg2000(data: bytes, max_pixels: float) -> str | None:
    start = data.find(b"\xff\x4f\xff\x51", 0, _MAX_EXIF)
    if start < 0:
        return "its picture does not begin early enough"
    width, height, _, _, across, down, left, top = struct.unpack_from(">8I", data, start + 8)
    if across and down:
        tiles = -(-(width - left) // across) * -(-(height - top) // down)
        if tiles > _MAX_TILES:
            return f"it has {tiles} tiles"
    position = start + 2
    for _ in range(_MAX_MARKERS):
        if position >= len(data) or data[position + 1] in (0x90, 0xD9):
            return None
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + max(length, 2)
    return "its header is too long"


def _ico(data: bytes, max_pixels: float) -> str | None:
    return "it holds other files; a PNG or a JPEG does not"


_CHECKS = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "TIFF": _tiff,
    "PPM": _ppm,
    "JPEG2000": _jpeg2000,
    "ICO": _ico,
}
