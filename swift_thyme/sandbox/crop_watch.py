"""Looks at the crops of a program while it runs, and mends those that a second run is to mend.

`watch_crops` changes `picture[y1:y2, x1:x2]` in a syntax tree so that its index passes by here on
its way: the subscription itself stays in the program, with its order of evaluation, its result and
its errors. Crops of Pillow pass by in `shims`. In a first run everything is handed on as it is and
only noted; in a second one the places that it was asked to mend get another box.
"""

from __future__ import annotations

import ast
import builtins
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from swift_thyme.sandbox.crop_boxes import CropFault, look_at_box, look_at_slices
from swift_thyme.sandbox.mending import MAX_CROPS, CropPlace

__all__ = ["CROPS", "WatchedCrop", "install", "watch_crops"]

_NAME = "__thyme_crops__"
_MIN_SIDE = 28
"""An array of two dimensions with a shorter side is a table rather than a grey picture."""
_MAX_HELD = 64
_BLOCK = "<block "
Place = tuple[int, int, int, int]
"""The fields of a `CropPlace`; a plain tuple is made faster."""


@dataclass
class WatchedCrop:
    """A slice of a tree that is watched, as it was before."""

    node: ast.Subscript
    value: ast.expr
    index: ast.expr
    place: Place


class _Crops:
    """What the crops of a block were; the program reaches it under one built-in name."""

    def __init__(self) -> None:
        self._mend: frozenset[Place] = frozenset()
        self._good: set[Place] = set()
        self._bad: dict[Place, CropFault] = {}
        self._last: Place | None = None
        self._held: dict[Place, list[Any]] = {}
        self._places: dict[tuple[int, int], tuple[CodeType, Place]] = {}
        self._repairs: list[str] = []
        self._array: Any = None
        self._number: Any = int
        self.mended: dict[Place, list[tuple[int | None, ...]]] = {}

    def begin(self, mend: tuple[CropPlace, ...], repairs: list[str]) -> None:
        """Start a run.

        Args:
            mend: The places whose crops are mended.
            repairs: Where the names of what was mended go.
        """
        places = ((p.block, p.line, p.end_line, p.end_column) for p in mend)
        self._mend, self._repairs, self._last = frozenset(places), repairs, None
        self._good, self._bad = set(), {}
        self._held, self._places, self.mended = {}, {}, {}
        numpy = sys.modules.get("numpy")
        self._array = getattr(numpy, "ndarray", None)
        self._number = getattr(numpy, "generic", int)

    # -- what passes by ------------------------------------------------------------------------

    def __call__(self, place: Place, value: Any) -> Any:
        """Keep what is about to be indexed until its index comes by."""
        held = self._held.setdefault(place, [])
        if len(held) >= _MAX_HELD:
            del held[0]  # left by indices that failed
        held.append(value)
        return value

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        """Return the index of `(place, picture, rows, columns, ...)`, mended where it is to be."""
        place, picture = key[0], key[1]
        if picture is None:
            held = self._held.get(place)
            picture = held.pop() if held else None
        if type(picture) is self._array and picture.dtype.char == "B":
            shape = picture.shape
            if _is_picture(shape):
                rows, columns = key[2], key[3]
                if not (_is_usual(rows, shape[0]) and _is_usual(columns, shape[1])):
                    return self._look_closely(place, shape, rows, columns, key[4:])
                self._last = None
        self._good.add(place)
        return key[2:]

    def _look_closely(
        self, place: Place, shape: tuple[int, ...], rows: slice, columns: slice, rest: Any
    ) -> Any:
        try:
            x1, y1 = self._plain(columns.start), self._plain(rows.start)
            x2, y2 = self._plain(columns.stop), self._plain(rows.stop)
        except TypeError:
            return (rows, columns, *rest)
        fixed = self._note(place, look_at_slices((x1, y1, x2, y2), shape[1], shape[0]))
        if fixed is not None:
            rows, columns = slice(fixed[1], fixed[3]), slice(fixed[0], fixed[2])
        return (rows, columns, *rest)

    def box(self, size: tuple[int, int], box: Any, frame: FrameType | None) -> Any:
        """Return the box of a crop by Pillow, mended where it is to be.

        Args:
            size: Width and height of the picture.
            box: What the program gives.
            frame: The caller's frame.
        """
        while frame is not None and not frame.f_code.co_filename.startswith(_BLOCK):
            frame = frame.f_back
        if frame is None or type(box) not in (tuple, list, self._array) or len(box) != 4:
            return box
        try:
            bounds = [self._plain(bound) for bound in box]
        except TypeError:
            return box
        sides = [bound for bound in bounds if bound is not None]
        if len(sides) != 4:
            return box
        fixed = self._note(self._place_of(frame), look_at_box(sides, *size))
        return box if fixed is None else fixed

    def _plain(self, bound: Any) -> int | float | None:
        """Return a bound as a plain number; objects of other kinds are not asked for theirs."""
        if bound is None or type(bound) in (int, float):
            return bound  # type: ignore[no-any-return]
        if isinstance(bound, self._number):
            value = bound.item()
            if type(value) in (int, float):
                return value  # type: ignore[no-any-return]
        raise TypeError("not a number")

    def _place_of(self, frame: FrameType) -> Place:
        key = (id(frame.f_code), frame.f_lasti)
        known = self._places.get(key)
        if known is None:
            code, line, end, column = frame.f_code, frame.f_lineno, frame.f_lineno, 0
            positions = getattr(code, "co_positions", None)  # Python 3.10 knows lines only
            if positions is not None:
                found = list(positions())[frame.f_lasti // 2]
                line, end, column = found[0] or line, found[1] or end, found[3] or 0
            number = code.co_filename[len(_BLOCK) : -1]
            place = (int(number) if number.isdecimal() else 0, line, end, column)
            # The code object is kept, so that no other one gets its number.
            known = self._places[key] = (code, place)
        return known[1]

    def _note(self, place: Place, fault: CropFault | None) -> tuple[int | None, ...] | None:
        """Note a crop; return its box where it is to be mended."""
        box = None
        if fault is not None and fault.fixed is not None and place in self._mend:
            self._repairs += fault.fixed.repairs
            box = fault.fixed.box
            self.mended.setdefault(place, []).append(box)
            fault = None
        if fault is None:
            self._good.add(place)
            self._last = None
        else:
            self._bad[place] = fault
            self._last = place
        return box

    # -- what a run says -----------------------------------------------------------------------

    def to_mend(self, failed: bool, by_crop: bool) -> tuple[CropPlace, ...]:
        """Return the places that another run could mend.

        A place counts where every crop at it is wrong: the last tile of a row is right.

        Args:
            failed: Whether the program failed; crops that fail count only then.
            by_crop: Whether it may have failed by its last crop, which then counts for itself.
        """
        places = [
            place
            for place, fault in self._bad.items()
            if fault.fixed is not None and place not in self._good and (failed or not fault.raises)
        ]
        last = self._last
        if failed and by_crop and last is not None and last not in places:
            if self._bad[last].fixed is not None and not self._bad[last].is_partial:
                places.append(last)
        return tuple(CropPlace(*place) for place in places[:MAX_CROPS])

    def last_fault(self) -> str | None:
        """Return what was wrong with the last crop, where that gave nothing."""
        if self._last is None or self._bad[self._last].is_partial:
            return None
        return f"line {self._last[1]}: {self._bad[self._last].text}"


CROPS = _Crops()


def install() -> None:
    """Give programs the name that the changed slices use."""
    setattr(builtins, _NAME, CROPS)


def _is_usual(part: slice, length: int) -> bool:
    """Tell at once of most slices that they give something; this runs for each of a loop."""
    start, stop = part.start, part.stop
    return type(start) is int and type(stop) is int and 0 <= start < stop and start < length


def _is_picture(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return shape[2] in (1, 3, 4)
    return len(shape) == 2 and min(shape) >= _MIN_SIDE


def watch_crops(tree: ast.Module, block: int) -> tuple[list[WatchedCrop], bool]:
    """Let the crops of a program pass by here.

    Args:
        tree: The program; it is changed.
        block: Its number in the session.

    Returns:
        What was changed, and whether the program sets `processed_path`.
    """
    watched: list[WatchedCrop] = []
    sets_path = False
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        kind = type(node)
        # The usual kinds first, without looking at fields that cannot hold a slice: this runs
        # before every block.
        if kind is ast.Name:
            if node.id == "processed_path" and type(node.ctx) is not ast.Load:  # type: ignore[attr-defined]
                sets_path = True
        elif kind is ast.Attribute:
            pending.append(node.value)  # type: ignore[attr-defined]
        elif kind is ast.Call:
            assert isinstance(node, ast.Call)
            pending += [keyword.value for keyword in node.keywords]
            pending += node.args
            pending.append(node.func)
        elif kind is not ast.Constant:
            for name in node._fields:
                if name in ("annotation", "returns"):
                    continue  # may become text
                value = getattr(node, name, None)
                if type(value) is list:
                    pending += [item for item in value if isinstance(item, ast.AST)]
                elif isinstance(value, ast.AST) and value._fields:
                    pending.append(value)  # contexts and operators have no fields
            if kind is ast.Subscript and _is_crop(node):  # type: ignore[arg-type]
                assert isinstance(node, ast.Subscript)
                watched.append(_watch(node, block))
    return watched, sets_path


def _is_crop(node: ast.Subscript) -> bool:
    if type(node.ctx) is not ast.Load or not isinstance(node.slice, ast.Tuple):
        return False
    parts = node.slice.elts[:2]
    if len(parts) < 2:
        return False
    bounds = [p for part in parts if isinstance(part, ast.Slice) for p in (part.lower, part.upper)]
    return (
        all(isinstance(part, ast.Slice) and part.step is None for part in parts)
        # All of both sides is never empty.
        and any(bound is not None for bound in bounds)
    )


def _watch(node: ast.Subscript, block: int) -> WatchedCrop:
    """Make `x[a:b, c:d]` `x[CROPS[place, x, a:b, c:d]]`; what is no name is held meanwhile."""
    assert isinstance(node.slice, ast.Tuple)
    place = (block, node.lineno, node.end_lineno or node.lineno, node.end_col_offset or 0)
    known = WatchedCrop(node, node.value, node.slice, place)
    constant = ast.Constant(place)  # type: ignore[arg-type]
    again: ast.expr = ast.Constant(None)
    made: list[ast.expr] = [constant, again]
    if isinstance(node.value, ast.Name):
        again = made[1] = ast.Name(node.value.id, ast.Load())
    else:
        crops = ast.Name(_NAME, ast.Load())
        node.value = ast.Call(crops, [constant, node.value], [])
        made += [crops, node.value]
    crops = ast.Name(_NAME, ast.Load())
    index = ast.Tuple([constant, again, *node.slice.elts], ast.Load())
    passed = ast.Subscript(crops, index, ast.Load())
    for new in (*made, crops, index, passed):
        ast.copy_location(new, node)
    node.slice = passed
    return known
