"""Pictures for the page: data URIs of a bounded size, each made once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import base64_text, data_uri, sniff
from swift_thyme.core.pictures import (
    decoding,
    flat,
    has_transparency,
    header_of,
    open_image,
    upright,
)

__all__ = ["Embedded", "embed_all"]

_KEPT = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats that are embedded as they are; SVG can never be among them."""

KEEP_BYTES = 256 * 1024
"""A file up to this size, in bytes, is not encoded again if its sides fit."""
THUMBNAIL_SIDE = 88
"""Longest side of a thumbnail in pixels; it is shown at half of that."""


class Embedded(NamedTuple):
    """A picture as the page holds it."""

    mime: str
    data: str
    """Base64."""
    width: int
    """Pixels of the original."""
    height: int
    """Pixels of the original."""
    reduced: bool
    """Whether the page holds a smaller or recompressed copy."""
    thumbnail: str
    """A data URI."""


def embed_all(files: Sequence[Path], max_side: int) -> list[Embedded | None]:
    """Return the pictures in the form of the page, None where a file is missing or no picture.

    Args:
        files: Image files.
        max_side: Larger pictures are reduced to this many pixels on their longer side.
    """
    # Pillow decodes and encodes without holding the interpreter lock.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: _embed(file, max_side), files))


def _embed(file: Path, max_side: int) -> Embedded | None:
    try:
        data = file.read_bytes()
        with open_image(data, str(file)) as image, decoding(str(file)):
            kind = sniff(data)
            mime = kind.mime if kind is not None and kind.name in _KEPT else None
            _, _, size, turn = header_of(image)
            reduced = mime is None or max(size) > max_side or len(data) > KEEP_BYTES or turn != 1
            if reduced:
                # Decodes a large JPEG at a fraction of its size at once.
                image.draft("RGB", (max_side, max_side))
            picture = _plain(image)
            if reduced:
                picture.thumbnail((max_side, max_side))
                mime, data = "image/webp", _webp(picture, 85)
            picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            thumbnail = data_uri(_webp(picture, 70))
    except (OSError, DataError):
        return None
    return Embedded(
        mime=mime or "",
        data=base64_text(data),
        width=size[0],
        height=size[1],
        reduced=reduced,
        thumbnail=thumbnail,
    )


def _plain(image: Image.Image) -> Image.Image:
    # The page shows transparency as such.
    turned = upright(image)
    return turned.convert("RGBA") if has_transparency(turned) else flat(turned).copy()


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=2)
    return buffer.getvalue()
