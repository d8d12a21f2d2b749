"""Images for a judge: from any form that ms-swift uses to a small JPEG in a data URL."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from swift_thyme.core.errors import DataError

__all__ = ["to_data_url"]

_JPEG_QUALITY = 85
_LONGEST_PATH = 4096
_MOST_PIXELS = 200_000_000


def to_data_url(image: Any, longest_side: int) -> str:
    """Return an image as a JPEG data URL no longer than a number of pixels on any side.

    Args:
        image: A PIL image, encoded bytes, a path, a data URL, base64 text, or ms-swift's dict with
            ``bytes`` or ``path``.
        longest_side: Limit in pixels; smaller images keep their size.

    Raises:
        DataError: There is no image in it.
    """
    try:
        with _open(image) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise DataError(f"image of {opened.width}x{opened.height} pixels is too large")
            small = ImageOps.exif_transpose(opened)
            small.thumbnail((longest_side, longest_side))
            encoded = io.BytesIO()
            _on_white(small).save(encoded, "JPEG", quality=_JPEG_QUALITY)
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as e:
        if isinstance(e, DataError):
            raise
        raise DataError(f"not an image that a judge can be shown: {e}") from e
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")


def _open(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.copy()
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, (bytes, bytearray)):
        return Image.open(io.BytesIO(image))
    if isinstance(image, Path):
        return Image.open(image)
    if not isinstance(image, str):
        raise DataError(f"an image cannot be a {type(image).__name__}")
    if image.startswith("data:"):
        return _decode(image.partition(",")[2])
    if len(image) <= _LONGEST_PATH and Path(image).is_file():
        return Image.open(image)
    return _decode(image)


def _decode(text: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    except binascii.Error as e:
        raise DataError("neither a file nor base64 text") from e


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
