"""Mending a crop box: swap, scale, clamp, widen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["MIN_CROP_SIDE", "FixedBox", "fix_box"]

MIN_CROP_SIDE = 64
"""Side in pixels to which a box that is empty after mending is widened (Thyme facts)."""
_TOO_SMALL = 28


class FixedBox(NamedTuple):
    """A box that lies in its image, and what was done to it."""

    box: tuple[int, int, int, int]
    """(x1, y1, x2, y2) in pixels, x1 < x2 <= width, y1 < y2 <= height."""
    repairs: list[str]


def fix_box(bounds: Sequence[Any], width: int, height: int, clips_itself: bool) -> FixedBox | None:
    """Return a box that works, or None where this one works or is not known.

    Args:
        bounds: x1, y1, x2, y2; anything but four numbers is not known.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        clips_itself: Whether an end beyond the image is cut there anyway, as slices do, and
            negative numbers count from the end.
    """
    numbers = [b for b in bounds if isinstance(b, (int, float)) and not isinstance(b, bool)]
    if len(numbers) != 4 or width < 1 or height < 1 or any(abs(b) > 1e9 or b != b for b in numbers):
        return None
    repairs: list[str] = []
    integral = all(isinstance(b, int) or not clips_itself for b in numbers)
    if not integral:
        repairs.append("integer_crop")
    x1, y1, x2, y2 = (round(b) for b in numbers)
    if clips_itself:
        works = _slice_size(x1, x2, width) > 0 and _slice_size(y1, y2, height) > 0
        if works:
            return FixedBox((x1, y1, x2, y2), repairs) if repairs else None
    elif 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
        return None
    if x1 > x2 or y1 > y2:
        repairs.append("swap_crop")
        x1, x2 = sorted((x1, x2))
        y1, y2 = sorted((y1, y2))
    outside = x1 >= width or y1 >= height
    if outside and 0 <= min(x1, y1) and max(x2, y2) <= 1000:
        # Nothing of it is in the image, but all of it is on the 0-1000 scale of other models.
        repairs.append("scale_crop")
        x1, x2 = round(x1 * width / 1000), round(x2 * width / 1000)
        y1, y2 = round(y1 * height / 1000), round(y2 * height / 1000)
    left, right = (max(0, min(x, width)) for x in (x1, x2))
    top, bottom = (max(0, min(y, height)) for y in (y1, y2))
    clamped = (left, top, right, bottom)
    if clamped != (x1, y1, x2, y2):
        repairs.append("clamp_crop")
    x1, y1, x2, y2 = clamped
    small = min(x2 - x1, y2 - y1)
    if small < 1 or ("clamp_crop" in repairs and small < min(_TOO_SMALL, width, height)):
        repairs.append("widen_crop")
        x1, x2 = _widen(x1, x2, width)
        y1, y2 = _widen(y1, y2, height)
    return FixedBox((x1, y1, x2, y2), repairs)


def _slice_size(start: int, end: int, length: int) -> int:
    """Return how many elements a slice gives, without building it."""
    return len(range(*slice(start, end).indices(length)))


def _widen(start: int, end: int, length: int) -> tuple[int, int]:
    """Widen a span about its middle to the smallest side, or to the whole length if shorter."""
    side = min(MIN_CROP_SIDE, length)
    if end - start >= side:
        return start, end
    start = max(0, min((start + end - side) // 2, length - side))
    return start, start + side
