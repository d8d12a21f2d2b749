"""The synthetic task: read the number on a small plate in a picture that is larger than it looks.

This module owns the pictures and what is true about them: a textured background, plain distractor
rectangles, and one yellow plate with two digits. The tiny model sees every image at no more than
``VIEW_SIZE`` x ``VIEW_SIZE`` pixels: the whole picture shrinks by four, which leaves a digit about
three pixels high, while a crop of ``WINDOW_SIZE`` pixels is enlarged. It does not own prompts,
rows or files.

Everything is a pure function of its seed. Digits are drawn from a bitmap in this file and scaled
with Pillow, so that no font and no version of a drawing library changes the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = [
    "PICTURE_SIZE",
    "VIEW_SIZE",
    "WINDOW_SIZE",
    "GRID",
    "Box",
    "Picture",
    "make_picture",
    "choose_window",
    "shows_plate",
]

PICTURE_SIZE = 448
"""Side of a picture (pixels)."""
VIEW_SIZE = 112
"""Side of the largest image that the tiny model sees (pixels); larger ones are shrunk to it."""
WINDOW_SIZE = 96
"""Side of the crop window in the demonstrations (pixels of the picture)."""
GRID = 16
"""The corners of demonstrated windows are multiples of this (pixels)."""

_GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00010 00100 01000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}
_GLYPH_WIDTH, _GLYPH_HEIGHT = 10, 14
_PLATE_WIDTH, _PLATE_HEIGHT = 40, 24

# Colours of the distractors (red, green, blue); none is near the plate's yellow.
_DISTRACTOR_COLOURS = (
    (200, 60, 60),
    (60, 170, 70),
    (60, 90, 200),
    (150, 70, 170),
    (70, 180, 190),
    (235, 235, 235),
    (30, 30, 30),
    (120, 120, 120),
)

_FloatArray = npt.NDArray[np.float32]


class Box(NamedTuple):
    """A rectangle in picture pixels; right and bottom are exclusive, as in ``Image.crop``."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the task and what is true about it."""

    pixels: npt.NDArray[np.uint8]
    """Shape (PICTURE_SIZE, PICTURE_SIZE, 3), RGB."""
    number: str
    """The two digits on the plate, "10" to "99"."""
    plate: Box
    """Where the plate is."""

    def image(self) -> Image.Image:
        """Return the picture as a Pillow image (RGB)."""
        return Image.fromarray(self.pixels)


def _glyph(digit: str) -> _FloatArray:
    """Return the digit's ink, shape (_GLYPH_HEIGHT, _GLYPH_WIDTH), 0 (paper) to 1 (ink)."""
    rows = [[255 * int(bit) for bit in row] for row in _GLYPHS[digit].split()]
    small = Image.fromarray(np.array(rows, dtype=np.uint8))
    large = small.resize((_GLYPH_WIDTH, _GLYPH_HEIGHT), Image.Resampling.NEAREST)
    return np.asarray(large, dtype=np.float32) / 255.0


def _background(rng: np.random.Generator) -> _FloatArray:
    """Return a textured background, shape (PICTURE_SIZE, PICTURE_SIZE, 3), about 40 to 200."""
    cells = int(rng.choice([4, 7, 14, 28, 56]))
    coarse = rng.integers(0, 256, size=(cells, cells), dtype=np.uint8)
    texture = Image.fromarray(coarse).resize(
        (PICTURE_SIZE, PICTURE_SIZE),
        Image.Resampling.BILINEAR if rng.random() < 0.5 else Image.Resampling.NEAREST,
    )
    grey = 80 + np.asarray(texture, dtype=np.float32) * float(rng.uniform(0.05, 0.25))
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    # Red grows to the right and blue to the bottom: without such a cue a vision tower with
    # relative positions only learns where things are much more slowly.
    ramp = np.linspace(-40, 40, PICTURE_SIZE, dtype=np.float32)
    picture[:, :, 0] += ramp[None, :]
    picture[:, :, 2] += ramp[:, None]
    return picture


def _add_distractors(picture: _FloatArray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(4, 10))):
        width, height = (int(v) for v in rng.integers(16, 73, size=2))
        left = int(rng.integers(0, PICTURE_SIZE - width + 1))
        top = int(rng.integers(0, PICTURE_SIZE - height + 1))
        colour = _DISTRACTOR_COLOURS[int(rng.integers(len(_DISTRACTOR_COLOURS)))]
        shade = rng.uniform(0.8, 1.1, size=3)
        picture[top : top + height, left : left + width] = np.array(colour) * shade


def _draw_plate(picture: _FloatArray, plate: Box, number: str, rng: np.random.Generator) -> None:
    paper = np.array([235.0, 205.0, 40.0]) * rng.uniform(0.85, 1.08)
    # The ink's strength varies so that the plate's mean brightness says little about its digits.
    ink = paper * rng.uniform(0.0, 0.35)
    area = picture[plate.top : plate.bottom, plate.left : plate.right]
    area[:] = paper
    gap = int(rng.integers(3, 7))
    left = (_PLATE_WIDTH - 2 * _GLYPH_WIDTH - gap) // 2 + int(rng.integers(-2, 3))
    top = (_PLATE_HEIGHT - _GLYPH_HEIGHT) // 2 + int(rng.integers(-2, 3))
    for digit, x in zip(number, (left, left + _GLYPH_WIDTH + gap), strict=True):
        glyph = _glyph(digit)[:, :, None]
        cell = area[top : top + _GLYPH_HEIGHT, x : x + _GLYPH_WIDTH]
        cell[:] = glyph * ink + (1.0 - glyph) * cell


def make_picture(rng: np.random.Generator) -> Picture:
    """Draw one picture.

    Args:
        rng: Source of everything that varies; equal generators give equal pictures.
    """
    picture = _background(rng)
    _add_distractors(picture, rng)
    left = int(rng.integers(4, PICTURE_SIZE - _PLATE_WIDTH - 3))
    top = int(rng.integers(4, PICTURE_SIZE - _PLATE_HEIGHT - 3))
    plate = Box(left, top, left + _PLATE_WIDTH, top + _PLATE_HEIGHT)
    number = str(int(rng.integers(10, 100)))
    _draw_plate(picture, plate, number, rng)
    picture += rng.integers(-6, 7, size=(PICTURE_SIZE, PICTURE_SIZE, 1), dtype=np.int8)
    return Picture(np.clip(picture, 0, 255).astype(np.uint8), number, plate)


def choose_window(plate: Box, rng: np.random.Generator, spread_px: float) -> Box:
    """Choose a crop window around a plate: inside the picture, corners on the grid.

    Args:
        plate: The plate.
        rng: Source of the deviation.
        spread_px: Standard deviation (pixels, each axis) of the window's centre from the plate's;
            with 0 the plate is as central as the grid allows.
    """
    centre = ((plate.left + plate.right) / 2, (plate.top + plate.bottom) / 2)
    shift = rng.normal(0.0, 1.0, size=2) * spread_px
    corners = []
    for middle, deviation in zip(centre, shift, strict=True):
        low = round((middle + float(deviation) - WINDOW_SIZE / 2) / GRID) * GRID
        corners.append(min(max(low, 0), PICTURE_SIZE - WINDOW_SIZE))
    left, top = corners
    return Box(left, top, left + WINDOW_SIZE, top + WINDOW_SIZE)


def shows_plate(window: Box, plate: Box) -> bool:
    """Tell whether the whole plate lies inside the window."""
    return (
        window.left <= plate.left
        and window.top <= plate.top
        and window.right >= plate.right
        and window.bottom >= plate.bottom
    )
