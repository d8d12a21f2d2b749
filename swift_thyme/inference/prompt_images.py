"""Images of a prompt: checked, bounded, and in a form that model and code read alike.

The bytes may come from anywhere, a stranger's request included. Their header is read before a
pixel is decoded; formats, file size, pixels and aspect ratio are limited; only JPEG and PNG in
plain colours are kept as they are, and everything else is encoded again by the function that the
sandbox uses for the images that code returns.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from swift_thyme.core.errors import DataError
from swift_thyme.sandbox.encoder import MAX_ASPECT_RATIO, NotAnImage, Refused, encode_image

__all__ = ["IMAGE_PATH", "ImageLimits", "PromptImage", "read_image"]

IMAGE_PATH = "/mnt/data/images/{index}{suffix}"
"""Where generated code finds an image: the same on every machine, so that prompts are too."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_KEPT = ("JPEG", "MPO", "PNG")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be."""

    max_bytes: int = 64 * 1024 * 1024
    """Largest file."""
    max_pixels: int = 80_000_000
    """Most pixels (width x height); an 8K picture has 33 million."""


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image of a prompt."""

    data: bytes
    """JPEG or PNG."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    path: str
    """Path at which generated code finds it."""


def read_image(data: bytes, index: int = 0, limits: ImageLimits | None = None) -> PromptImage:
    """Return an image of a prompt.

    Args:
        data: The encoded image.
        index: Its place among the images of the prompt, from 0.
        limits: What it may be; None takes the defaults.

    Raises:
        DataError: It is no image, broken, or over a limit; the message says which.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise DataError(
            f"the image file has {len(data)} bytes, at most {limits.max_bytes} are read"
        )
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise DataError(
                    f"the image has {width}x{height} pixels, at most "
                    f"{limits.max_pixels / 1e6:g} million are read"
                )
            if min(width, height) < 1 or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise DataError(f"the image's aspect ratio ({width}x{height}) is over 200:1")
            if (
                image.format in _KEPT
                and image.mode in ("RGB", "L")
                and not _has_transparency(image)
            ):
                image.load()
                kept, suffix = data, ".png" if image.format == "PNG" else ".jpg"
            else:
                encoded = encode_image(data, limits.max_pixels, limits.max_pixels)
                kept, width, height = encoded.data, encoded.width, encoded.height
                suffix = ".jpg" if kept.startswith(b"\xff\xd8") else ".png"
    except (UnidentifiedImageError, NotAnImage) as error:
        known = ", ".join(_FORMATS)
        raise DataError(f"the data is not an image ({known} are read)") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image is too large: {error}") from error
    except (Refused, OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the image cannot be decoded: {error}") from error
    return PromptImage(kept, width, height, IMAGE_PATH.format(index=index, suffix=suffix))


def _has_transparency(image: Any) -> bool:
    return "transparency" in image.info
