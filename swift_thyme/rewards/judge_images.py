"""Images for a judge: from any form that ms-swift uses to a small JPEG in a data URL."""

from __future__ import annotations

import math
from typing import Any

from swift_thyme.core.images import data_uri, read
from swift_thyme.core.pictures import ImageLimits, decoding, flat, jpeg_bytes, open_image, upright

__all__ = ["to_data_url"]

_JPEG_QUALITY = 85
_LIMITS = ImageLimits(math.inf, max_pixels=200_000_000, max_aspect=math.inf)
_NAME = "an image for the judge"


def to_data_url(image: Any, longest_side: int) -> str:
    """Return an image as a JPEG data URL no longer than a number of pixels on any side.

    Args:
        image: The image in any form of :func:`swift_thyme.core.images.locate`.
        longest_side: Limit in pixels; smaller images keep their size.

    Raises:
        DataError: There is no image in it.
    """
    with open_image(read(image, _NAME), _NAME, _LIMITS) as opened, decoding(_NAME):
        # A large JPEG is decoded at a fraction of its size at once.
        opened.draft("RGB", (longest_side, longest_side))
        small = flat(upright(opened))
        small.thumbnail((longest_side, longest_side))
        return data_uri(jpeg_bytes(small, _JPEG_QUALITY))
