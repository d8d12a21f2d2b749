"""Pictures of the tests: red at the upper left, white elsewhere, stored as a camera would."""

import io
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 80, 48
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation to what the camera did to the upright picture."""


def upright_picture(size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Return the picture as it is meant to be seen."""
    picture = Image.new("RGB", size, (255, 255, 255))
    picture.paste((200, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return picture


def camera_file(
    kind: str, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB"
) -> bytes:
    """Return the picture as a file with its pixels turned and an EXIF entry that says how."""
    operation = STORED_AS[orientation]
    picture = upright_picture(size)
    stored = picture if operation is None else picture.transpose(operation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    buffer = io.BytesIO()
    stored.convert(mode).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def is_upright(picture: Any) -> bool:
    """Tell whether the red quarter is at the upper left; takes an image or an array of RGB."""
    pixels = np.asarray(picture)[..., :3].astype(int)
    height, width = pixels.shape[:2]

    def red(x: float, y: float) -> bool:
        r, g, _ = pixels[int(height * y), int(width * x)]
        return bool(r > 120 and g < 90)

    corners = red(0.25, 0.25), red(0.75, 0.25), red(0.25, 0.75), red(0.75, 0.75)
    return width > height and corners == (True, False, False, False)
