"""Images of a prompt: checked, bounded, and in a form that model and code read alike.

The bytes may come from anywhere, a stranger's request included. Their header is read before a
pixel is decoded; formats, file size, pixels and aspect ratio are limited; only an upright JPEG or
PNG in plain colours is kept as it is, and everything else is encoded again by the function that the
sandbox uses for the images that code returns.
"""

from __future__ import annotations

from dataclasses import dataclass

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import sniff
from swift_thyme.core.pictures import (
    ImageLimits,
    decoding,
    has_transparency,
    open_image,
    orientation,
)
from swift_thyme.sandbox.encoder import Refused, encode_image

__all__ = ["IMAGE_PATH", "PromptImage", "read_image"]

IMAGE_PATH = "/mnt/data/images/{index}{suffix}"
"""Where generated code finds an image: the same on every machine, so that prompts are too."""

_KEPT = ("JPEG", "MPO", "PNG")
_NAME = "the image"


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
    with open_image(data, _NAME, limits) as image, decoding(_NAME):
        (width, height), kept = image.size, data
        if (
            image.format in _KEPT
            and image.mode in ("RGB", "L")
            and not has_transparency(image)
            and orientation(image) == 1
        ):
            image.load()
        else:
            try:
                encoded = encode_image(data, limits.max_pixels, limits.max_pixels)
            except Refused as error:
                raise DataError(f"{_NAME} cannot be used: {error}") from error
            kept, width, height = encoded.data, encoded.width, encoded.height
    kind = sniff(kept)
    suffix = kind.suffix if kind else ""
    return PromptImage(kept, width, height, IMAGE_PATH.format(index=index, suffix=suffix))
