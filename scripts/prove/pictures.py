"""Pictures of the proof: backgrounds like photographs, two small plates with numbers, one disc.

Everything is a function of the generator that is passed in. A picture is square and ``CELLS`` cells
wide, so one program text fits every resolution. Plates are two cells wide. At the model's limit of
``VIEW_SIZE`` pixels a digit of the whole picture is below three pixels high, while a window of
``WINDOW`` cells shows it at fifteen.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "CELLS",
    "COLOURS",
    "FONTS",
    "PLATES",
    "SIZES",
    "TURNS",
    "VIEW_SIZE",
    "WINDOW",
    "Plate",
    "Scene",
    "Window",
    "choose_window",
    "draw_scene",
]

CELLS = 28
"""Cells along a side; corners of windows lie on them."""
WINDOW = 5
"""Side of a window, in cells."""
VIEW_SIZE = 112
"""Side of the largest image that the models see, in pixels."""
SIZES = (336, 448, 672, 896)
"""Sides of pictures, in pixels; multiples of CELLS."""
TURNS = (0, 90, 180, 270)
"""How a plate can lie: counter-clockwise degrees, as in ``Image.rotate``."""
PLATES = {"yellow": (235, 200, 40), "blue": (60, 110, 225)}
COLOURS = {
    "red": (205, 45, 40),
    "green": (50, 165, 70),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "pink": (240, 130, 190),
    "orange": (245, 130, 20),
}
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
"""Font files that the package matplotlib brings."""

_OVERSAMPLE = 4


class Window(NamedTuple):
    """A part of a picture, in cells; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class Plate(NamedTuple):
    """A plate and where its middle is, in cells."""

    number: str
    x: float
    y: float
    turn: int
    """Of ``TURNS``; the dark band is at the top of an upright plate."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and what is true about it."""

    image: Image.Image
    plates: dict[str, Plate]
    """By the colour of the plate: ``yellow`` and ``blue``."""
    disc: str
    """Colour of the disc, of ``COLOURS``."""
    pale: bool
    """Whether the picture has little contrast."""

    def jpeg(self) -> bytes:
        """Return the picture as a file, at quality 95."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def _noise(
    rng: np.random.Generator, size: int, cells: int, colour: float
) -> npt.NDArray[np.float32]:
    """Return smooth noise of one scale, shape (size, size, 3), -1 to 1; ``colour`` 0 is grey."""
    small = rng.integers(0, 256, size=(cells, cells, 3)).astype(np.float32)
    grey = small.mean(axis=2, keepdims=True)
    small = grey + colour * (small - grey)
    image = Image.fromarray(small.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 127.5 - 1.0


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Return clouds of noise at several scales, in light that changes over the picture."""
    base = rng.uniform(70, 185, size=3).astype(np.float32)
    base += 0.5 * (base.mean() - base)
    side = 8 * CELLS
    picture = np.broadcast_to(base, (side, side, 3)).copy()
    steep = rng.uniform(0.5, 1.0)
    for cells in (3, 7, 14, 28, 56, 112):
        strength = 48 * rng.uniform(0.3, 1.0) * (3 / cells) ** steep
        picture += _noise(rng, side, cells, 0.5) * np.float32(strength)
    # Warm light from one side and cool light from above: a vision tower with relative positions
    # learns where things are much more slowly without such a cue.
    ramp = np.linspace(-38, 38, side, dtype=np.float32)
    picture[:, :, 0] += ramp[None, :]
    picture[:, :, 2] += ramp[:, None]
    small = Image.fromarray(np.clip(picture, 8, 247).astype(np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def _dull(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a colour that is neither that of a plate nor that of a disc."""
    grey = rng.uniform(60, 190)
    red, green, blue = grey + rng.uniform(-22, 22, size=3)
    return int(red), int(green), int(blue)


def _clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int) -> None:
    """Draw walls, windows, poles and leaves: dull shapes of many sizes."""
    for _ in range(int(rng.integers(5, 14))):
        x, y = rng.uniform(-0.1, 1.0, size=2) * size
        w, h = rng.uniform(0.02, 0.3, size=2) * size
        box, colour = (x, y, x + w, y + h), _dull(rng)
        kind = int(rng.integers(4))
        if kind == 0:
            draw.rectangle(box, fill=colour, outline=_dull(rng), width=max(1, size // 224))
        elif kind == 1:
            draw.ellipse(box, fill=colour)
        elif kind == 2:
            draw.line(box, fill=colour, width=int(rng.integers(1, max(3, size // 60))))
        else:
            draw.polygon([*box[:2], *box[2:], box[0], box[3]], fill=colour)


def _plate_image(
    rng: np.random.Generator, number: str, paper: tuple[int, ...], cell: int
) -> Image.Image:
    """Return a plate of 2 x 1.25 cells, upright."""
    scale = _OVERSAMPLE
    width, height = 2 * cell * scale, int(1.25 * cell) * scale
    shade = rng.uniform(0.85, 1.05)
    ground = tuple(min(255, int(v * shade)) for v in paper)
    dark = tuple(int(v * rng.uniform(0.05, 0.25)) for v in ground)
    image = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(image)
    band = int(0.14 * height)
    draw.rectangle((0, 0, width, band), fill=dark)
    font = _font(str(rng.choice(FONTS)), int(0.8 * height * rng.uniform(0.92, 1.06)))
    middle = (width / 2 + rng.uniform(-0.06, 0.06) * width, band + (height - band) / 2)
    spaced = number if rng.random() < 0.6 else f"{number[0]}\u2009{number[1]}"
    if "\u2009" in spaced:
        # Not every font has a thin space: the digits are placed one by one.
        step = font.getlength(number[0]) * 1.15
        draw.text((middle[0] - step / 2, middle[1]), number[0], fill=dark, font=font, anchor="mm")
        draw.text((middle[0] + step / 2, middle[1]), number[1], fill=dark, font=font, anchor="mm")
    else:
        draw.text(middle, number, fill=dark, font=font, anchor="mm")
    return image.resize((width // scale, height // scale), Image.Resampling.LANCZOS)


def _places(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the middles of two plates and of a disc, in cells, well apart."""
    while True:
        found = [tuple(rng.uniform(1.6, CELLS - 1.6, size=2)) for _ in range(3)]
        apart = [
            max(abs(a[0] - b[0]), abs(a[1] - b[1])) for i, a in enumerate(found) for b in found[:i]
        ]
        if min(apart) > 5.5:
            return [(float(x), float(y)) for x, y in found]


def draw_scene(
    rng: np.random.Generator,
    *,
    turned: bool = False,
    pale: bool = False,
    size: int | None = None,
) -> Scene:
    """Draw one picture.

    Args:
        rng: Source of everything that varies.
        turned: Whether the plates lie at 90, 180 or 270 degrees.
        pale: Whether the picture has little contrast.
        size: Its side in pixels, of ``SIZES``; drawn at random if None.
    """
    size = int(rng.choice(SIZES)) if size is None else size
    cell = size // CELLS
    image = _background(rng, size)
    draw = ImageDraw.Draw(image)
    _clutter(draw, rng, size)
    first, second, third = _places(rng)
    plates = {}
    for (name, paper), (x, y) in zip(PLATES.items(), (first, second), strict=True):
        turn = int(rng.choice(TURNS[1:])) if turned else 0
        plate = Plate(str(int(rng.integers(10, 100))), x, y, turn)
        drawn = _plate_image(rng, plate.number, paper, cell).rotate(turn, expand=True)
        image.paste(drawn, (round(x * cell - drawn.width / 2), round(y * cell - drawn.height / 2)))
        plates[name] = plate
    disc = str(rng.choice(list(COLOURS)))
    radius = rng.uniform(1.1, 1.5) * cell
    x, y = third[0] * cell, third[1] * cell
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[disc])
    if pale:
        haze, contrast = rng.uniform(90, 170), rng.uniform(0.16, 0.26)
        image = image.point([round(haze + (v - haze) * contrast) for v in range(256)] * 3)
    grain = rng.integers(-2 if pale else -7, 3 if pale else 8, size=(112, 112, 1), dtype=np.int16)
    pixels = np.asarray(image, dtype=np.int16) + np.tile(grain, (size // 112, size // 112, 1))
    return Scene(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), plates, disc, pale)


def choose_window(plate: Plate, rng: np.random.Generator, spread: float) -> Window:
    """Choose a window around a plate, inside the picture.

    Args:
        plate: The plate.
        rng: Source of the deviation.
        spread: Standard deviation (cells, each axis) of the window's middle from the plate's; with
            0 the plate is as central as the cells allow.
    """
    shift = rng.normal(0.0, 1.0, size=2) * spread
    corners = [
        min(max(round(middle + float(off) - WINDOW / 2), 0), CELLS - WINDOW)
        for middle, off in zip((plate.x, plate.y), shift, strict=True)
    ]
    return Window(corners[0], corners[1], corners[0] + WINDOW, corners[1] + WINDOW)
