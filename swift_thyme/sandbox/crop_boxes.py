"""What is wrong with a crop box, and mending it: swap, scale, clamp, widen.

A box is mended only where its own values say what was meant. One that says nothing, such as a box
without a width, stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["MIN_CROP_SIDE", "CropFault", "FixedBox", "look_at_box", "look_at_slices"]

MIN_CROP_SIDE = 64
"""Side in pixels to which a box is widened of which clamping leaves too little (Thyme facts)."""
_TOO_SMALL = 28
"""Smallest side in pixels of an image that is returned."""
_SCALE = 1000
"""The scale of boxes that other models use."""
_LARGEST = 1e9

Bound = int | float | None
"""An end of a box; None where a slice leaves it out."""


class FixedBox(NamedTuple):
    """A box that gives a part of its picture, and what was done to it."""

    box: tuple[int | None, int | None, int | None, int | None]
    """(x1, y1, x2, y2) in pixels; None for an end that a slice leaves out."""
    repairs: tuple[str, ...]


class CropFault(NamedTuple):
    """Why a crop gives nothing, or something else than a part of its picture."""

    text: str
    """What is wrong, for the model: the box and the size of the picture."""
    raises: bool
    """Whether the crop fails, so that a program that goes on has dealt with it."""
    is_partial: bool
    """Whether it gives a part of the picture and something around it."""
    fixed: FixedBox | None
    """The box that was meant, where its values say so."""


def look_at_slices(bounds: Sequence[Bound], width: int, height: int) -> CropFault | None:
    """Return what is wrong with `picture[y1:y2, x1:x2]`, or None where it gives a part.

    Args:
        bounds: x1, y1, x2, y2; None where a slice leaves it out.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    x1, y1, x2, y2 = bounds
    raises = any(isinstance(bound, float) for bound in bounds)
    if not raises and _span(x1, x2, width) and _span(y1, y2, height):
        return None
    problem = "has bounds that are no whole numbers" if raises else "is empty"
    fixed = _fix(bounds, width, height, is_slice=True) if width and height else None
    return CropFault(_describe(bounds, problem, width, height), raises, False, fixed)


def look_at_box(box: Sequence[int | float], width: int, height: int) -> CropFault | None:
    """Return what is wrong with `picture.crop(box)` of Pillow, or None where nothing is.

    A box that holds the whole picture is a border made on purpose.

    Args:
        box: x1, y1, x2, y2.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
    if any(bound != bound or abs(bound) > _LARGEST for bound in box):
        return None  # Pillow has its own word for these
    x1, y1, x2, y2 = map(round, box)
    is_share = _are_shares(box, False)
    if not is_share:
        if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
            return None
        if x1 <= 0 and y1 <= 0 and x2 >= width and y2 >= height and x1 < x2 and y1 < y2:
            return None
    raises = x1 > x2 or y1 > y2
    partial = False
    if is_share:
        problem = "is smaller than a pixel"
    elif raises:
        problem = "ends before it starts"
    elif x1 == x2 or y1 == y2:
        problem = "is empty"
    elif x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        problem = "lies outside"
    else:
        problem, partial = "reaches out of its picture", True
    fixed = _fix(box, width, height, is_slice=False) if width and height else None
    return CropFault(_describe(box, problem, width, height), raises, partial, fixed)


def _describe(bounds: Sequence[Bound], problem: str, width: int, height: int) -> str:
    named = (
        f"{name}={bound:.6g}" if isinstance(bound, float) else f"{name}={bound}"
        for name, bound in zip(("x1", "y1", "x2", "y2"), bounds, strict=True)
        if bound is not None
    )
    return f"the crop ({', '.join(named)}) {problem}; the picture has {width}x{height} pixels"


def _span(start: Bound, end: Bound, length: int) -> int:
    """Return how many elements a slice of whole numbers gives."""
    return len(range(*slice(start, end).indices(length)))


def _are_shares(bounds: Sequence[Bound], is_slice: bool) -> bool:
    """Tell whether all values are shares of width and height, from 0 to 1.

    Whole numbers alone could be pixels; in a slice a number like 1.0 could not.
    """
    given = [bound for bound in bounds if bound is not None]
    if not given or not all(0 <= bound <= 1 for bound in given):
        return False
    return any(b != int(b) or (is_slice and isinstance(b, float)) for b in given)


def _fix(bounds: Sequence[Bound], width: int, height: int, is_slice: bool) -> FixedBox | None:
    """Return the box that was meant, or None where the values do not say."""
    if any(b is not None and (b != b or abs(b) > _LARGEST) for b in bounds):
        return None
    if _are_shares(bounds, is_slice):
        full = [
            default if b is None else b for b, default in zip(bounds, (0, 0, 1, 1), strict=True)
        ]
        sides = (width, height, width, height)
        return _order(
            [round(b * side) for b, side in zip(full, sides, strict=True)], ["scale_crop"]
        )
    repairs = []
    whole = [None if b is None else round(b) for b in bounds]
    if is_slice and any(isinstance(b, float) for b in bounds):
        repairs.append("integer_crop")
        x1, y1, x2, y2 = whole
        if _span(x1, x2, width) and _span(y1, y2, height):
            return FixedBox((x1, y1, x2, y2), tuple(repairs))
    spans = []
    for start, end, length in ((whole[0], whole[2], width), (whole[1], whole[3], height)):
        if is_slice and _span(start, end, length):
            start, end, _ = slice(start, end).indices(length)
        elif start is None or end is None or start == end or (is_slice and end < 0):
            return None  # an end that nobody wrote, or that counts from the other side
        spans.append((start, end))
    box = _order([spans[0][0], spans[1][0], spans[0][1], spans[1][1]], repairs)
    if box is None:
        return None
    return _into_picture(box, whole, width, height)


def _order(box: list[int], repairs: list[str]) -> FixedBox | None:
    """Swap ends that are in the wrong order; None for a box without a width or a height."""
    x1, y1, x2, y2 = box
    if x1 == x2 or y1 == y2:
        return None
    if x1 > x2 or y1 > y2:
        repairs = [*repairs, "swap_crop"]
    return FixedBox((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), tuple(repairs))


def _into_picture(
    box: FixedBox, written: Sequence[int | None], width: int, height: int
) -> FixedBox | None:
    """Scale or clamp a box that is not inside its picture."""
    x1, y1, x2, y2 = (side or 0 for side in box.box)
    repairs = list(box.repairs)
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        if not all(b is not None and 0 <= b <= _SCALE for b in written):
            return None
        # Nothing of it is in the picture, but all of it is on the 0-1000 scale of other models.
        a1, b1, a2, b2 = (b or 0 for b in written)
        x1, x2 = (round(b * width / _SCALE) for b in sorted((a1, a2)))
        y1, y2 = (round(b * height / _SCALE) for b in sorted((b1, b2)))
        return _order([x1, y1, x2, y2], [*repairs, "scale_crop"])
    left, right = max(0, x1), min(x2, width)
    top, bottom = max(0, y1), min(y2, height)
    if (left, top, right, bottom) != (x1, y1, x2, y2):
        repairs.append("clamp_crop")
        asked, kept = min(x2 - x1, y2 - y1), min(right - left, bottom - top)
        if kept < min(_TOO_SMALL, width, height) and asked >= _TOO_SMALL:
            repairs.append("widen_crop")
            left, right = _widen(left, right, width)
            top, bottom = _widen(top, bottom, height)
    return FixedBox((left, top, right, bottom), tuple(repairs))


def _widen(start: int, end: int, length: int) -> tuple[int, int]:
    """Widen a span about its middle to the smallest side, or to the whole length if shorter."""
    side = min(MIN_CROP_SIDE, length)
    if end - start >= side:
        return start, end
    start = max(0, min((start + end - side) // 2, length - side))
    return start, start + side
