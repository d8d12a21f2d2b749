"""Image files that take more work than their pixels explain, small enough for a test."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    (image or noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(side: int = SIDE, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return an image that no format makes smaller."""
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(chunks: bytes, *, behind_pixels: bool = False) -> bytes:
    """Return a PNG with further chunks."""
    data = saved("PNG")
    at = len(data) - 12 if behind_pixels else 33
    return data[:at] + chunks + data[at:]


def jpeg_with_scans(count: int) -> bytes:
    """Return a progressive JPEG that refines the same coefficients again and again."""
    data = saved("JPEG", progressive=True, quality=50)
    last = [match.start() for match in re.finditer(rb"\xff\xda", data)][-1]
    return data[:-2] + data[last : last + 10] * count + data[-2:]


def jpeg_with_segments(count: int) -> bytes:
    """Return a JPEG with its EXIF data in many pieces, which Pillow joins one by one."""
    data = saved("JPEG")
    piece = b"\xff\xe1" + struct.pack(">H", 10) + b"Exif\0\0xx"
    return data[:2] + piece * count + data[2:]


def tiff_of(tags: list[tuple[int, int, int, int]], behind: bytes, *, big: bool = False) -> bytes:
    """Return a TIFF with these (tag, type, count, value), and bytes behind them."""
    tags = sorted(tags)
    if big:
        head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags))
        return head + b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + bytes(8) + behind
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4) + behind


def tiff_with_strips(count: int, *, big: bool = False) -> bytes:
    """Return a TIFF whose strips, half of the picture each, lie on each other."""
    start = 16 + 8 + 9 * 20 + 8 if big else 8 + 2 + 9 * 12 + 4
    tags = [(256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(277, 3, 1, 1), (278, 3, 1, SIDE // 2)]
    tags += [(273, 4, count, start), (279, 4, count, start)]
    return tiff_of(tags, struct.pack("<I", start) * 2 * count + bytes(SIDE * SIDE), big=big)


def gif_with(blocks: bytes) -> bytes:
    """Return a GIF with further blocks before its picture."""
    data = saved("GIF", noise(mode="P"))
    at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 128 else 0)
    return data[:at] + blocks + data[at:]


def bmp_with_runs(side: int, runs: bytes) -> bytes:
    """Return a BMP with run lengths, which Pillow decodes in Python."""
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs


def jpeg2000_with_tiles(side: int, tile: int) -> bytes:
    """Return a JPEG 2000 whose header promises tiles of this side."""
    data = bytearray(saved("JPEG2000", noise(16)))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    struct.pack_into(">8I", data, at, side, side, 0, 0, tile, tile, 0, 0)
    return bytes(data)


def webp_with_canvas(side: int) -> bytes:
    """Return a WebP that claims a large canvas for a small picture."""
    picture = saved("WEBP")[12:]
    size = (side - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size * 2 + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def plain_ppm(kind: bytes = b"P3") -> bytes:
    """Return a picture written as text."""
    return kind + b"\n2 2\n255\n" + b"1 " * 12


TOO_MUCH_WORK: dict[str, Callable[[], bytes]] = {
    "plain bitmap": lambda: plain_ppm(b"P1"),
    "plain grey": lambda: plain_ppm(b"P2"),
    "plain colour": plain_ppm,
    "ppm of odd levels": lambda: b"P6\n1100 1000\n254\n" + bytes(3_300_000),
    "ppm with a long comment": lambda: b"P6\n#" + b"x" * 100_000 + b"\n2 2\n255\n" + bytes(12),
    "bmp with runs": lambda: bmp_with_runs(1100, b"\1\1\0\0" * 1100),
    "bmp with empty runs": lambda: bmp_with_runs(100, b"\0\2\0\0" * 100_000),
    "icon": lambda: saved("ICO"),
    "jpeg scans": lambda: jpeg_with_scans(120),
    "jpeg segments": lambda: jpeg_with_segments(600),
    "jpeg junk": lambda: (lambda d: d[:2] + bytes(100_000) + d[2:])(saved("JPEG")),
    "jpeg padding": lambda: (lambda d: d[:2] + b"\xff" * 100_000 + d[2:])(saved("JPEG")),
    "jpeg metadata": lambda: (lambda d: d[:2] + (b"\xff\xe2\xff\xff" + bytes(65533)) * 140 + d[2:])(
        saved("JPEG")
    ),
    "png chunks": lambda: png_with(chunk(b"tEXt", b"a\0b") * 600),
    "png chunks behind": lambda: png_with(chunk(b"tEXt", b"a\0b") * 600, behind_pixels=True),
    "png empty pixels": lambda: png_with(chunk(b"IDAT", b"") * 110_000),
    "png exif": lambda: png_with(chunk(b"eXIf", b"MM\0*" + bytes(2 << 20))),
    "gif comment": lambda: gif_with(b"\x21\xfe" + b"\1x" * 30_000 + b"\0"),
    "gif blocks": lambda: gif_with(b"\x21\xfe\1x\0" * 30_000),
    "tiff strips": lambda: tiff_with_strips(2000),
    "tiff values": lambda: tiff_with_strips(140_000),
    "big tiff values": lambda: tiff_with_strips(140_000, big=True),
    "tiff tags": lambda: tiff_of([(n + 300, 3, 1, 1) for n in range(5000)], b""),
    "jpeg 2000 tiles": lambda: jpeg2000_with_tiles(2000, 8),
    "webp canvas": lambda: webp_with_canvas(16_000),
}
"""Each is refused before a pixel is decoded."""

FINE: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("JPEG"),
    "progressive jpeg": lambda: saved("JPEG", progressive=True),
    "jpeg scans": lambda: jpeg_with_scans(20),
    "jpeg with a profile": lambda: saved("JPEG", icc_profile=bytes(3 << 20)),
    "jpeg with a video behind": lambda: saved("JPEG", progressive=True) + b"\xff\xda\0\1" * 500,
    "png": lambda: saved("PNG"),
    "png with alpha": lambda: saved("PNG", noise().convert("RGBA")),
    "png with text": lambda: png_with(chunk(b"tEXt", b"a\0b") * 20),
    "gif": lambda: saved("GIF", noise(mode="P")),
    "animated gif": lambda: saved("GIF", save_all=True, append_images=[noise(seed=1)] * 20),
    "animated png": lambda: saved("PNG", save_all=True, append_images=[noise(seed=1)] * 20),
    "webp": lambda: saved("WEBP"),
    "webp without loss": lambda: saved("WEBP", lossless=True),
    "animated webp": lambda: saved("WEBP", save_all=True, append_images=[noise(seed=1)] * 5),
    "tiff": lambda: saved("TIFF"),
    "compressed tiff": lambda: saved("TIFF", compression="tiff_lzw"),
    "tiff of many strips": lambda: saved("TIFF", tiffinfo={278: 1}),
    "tiff of pages": lambda: saved("TIFF", save_all=True, append_images=[noise(seed=1)] * 5),
    "bmp": lambda: saved("BMP"),
    "bmp with runs": lambda: bmp_with_runs(64, b"\x40\1\0\0" * 64),
    "ppm": lambda: saved("PPM"),
    "ppm of odd levels": lambda: b"P6\n# levels\n64 64\n254\n" + bytes(64 * 64 * 3),
    "jpeg 2000": lambda: saved("JPEG2000"),
    "avif": lambda: saved("AVIF"),
}
"""Usual files, and some that come near to those above."""
