"""Which boxes a program cuts out of a picture, as far as its text says so with numbers.

The program is read and never run. Numbers, names that hold numbers, their sums and products, and
the size of the picture are followed; whatever else decides a box makes it unknown. A box found here
is a guess at best: the picture may have been turned before, or be another one.
:mod:`swift_thyme.view.crop_boxes` compares it with the pixels.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = ["Box", "boxes_in"]

LONGEST_PROGRAM = 20_000
"""Characters; longer programs are not read."""
MOST_BOXES = 24
LARGEST = 10_000_000


class Box(NamedTuple):
    """A part of a picture, in its pixels."""

    left: float
    top: float
    right: float
    bottom: float


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "round": round, "max": max, "min": min, "abs": abs,
}  # fmt: skip


_SCOPES = (ast.comprehension, ast.Lambda)


def boxes_in(programs: Sequence[str], size: tuple[int, int]) -> list[Box]:
    """Return the boxes that programs cut, the last ones first.

    Args:
        programs: In the order in which they ran; they share their names.
        size: (width, height) of the picture, in pixels.
    """
    reader = _Reader(size)
    for program in programs:
        if len(program) > LONGEST_PROGRAM:
            continue
        try:
            with warnings.catch_warnings():
                # Of odd escapes in the program; they are the model's.
                warnings.simplefilter("ignore")
                tree = ast.parse(program)
            reader.run(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return list(dict.fromkeys(reversed(reader.boxes)))[:MOST_BOXES]


class _UnknownError(Exception):
    """The value of an expression cannot be told."""


class _Reader:
    def __init__(self, size: tuple[int, int]) -> None:
        self._width, self._height = size
        self._names: dict[str, Any] = {}
        self.boxes: list[Box] = []

    def run(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                # Runs later and elsewhere, if it runs at all.
                self._names[statement.name] = None
            elif isinstance(getattr(statement, "body", None), list):
                self._branch(statement)
            else:
                self._find_boxes(statement)
                self._follow(statement)

    def _branch(self, statement: ast.stmt) -> None:
        """Read what runs on a condition, or several times: each branch, and the pixels decide."""
        changed = {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del))
        }
        looped = isinstance(statement, (ast.For, ast.AsyncFor, ast.While))
        before = {name: None if looped else self._names.get(name) for name in changed}
        handlers = [handler.body for handler in getattr(statement, "handlers", [])]
        branches = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
        for branch in filter(None, (*branches, *handlers)):
            self._names.update(before)
            self.run(branch)
        # Which of the values it has now is not known, except below `with`, which always runs.
        if not isinstance(statement, (ast.With, ast.AsyncWith)):
            self._names.update(dict.fromkeys(changed))

    def _follow(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                self._assign(target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._assign(statement.target, statement.value)
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            name = ast.Name(statement.target.id, ast.Load())
            self._assign(statement.target, ast.BinOp(name, statement.op, statement.value))
        else:
            names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            changed = [node.id for node in names if not isinstance(node.ctx, ast.Load)]
            self._names.update(dict.fromkeys(changed))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        try:
            known = self._value(value)
            parts = known if isinstance(target, ast.Tuple) else (known,)
            pairs = list(zip(names, parts, strict=True))
        except (_UnknownError, TypeError, ValueError):
            pairs = [(name, None) for name in names]
        for name, part in pairs:
            if isinstance(name, ast.Name):
                self._names[name.id] = part

    def _find_boxes(self, statement: ast.stmt) -> None:
        # Names of a comprehension or a lambda have values of their own.
        inner = [node for node in ast.walk(statement) if isinstance(node, _SCOPES)]
        bound = {
            name.arg if isinstance(name, ast.arg) else name.id
            for scope in inner
            for name in ast.walk(scope)
            if isinstance(name, ast.arg)
            or (isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
        }
        self._names.update(dict.fromkeys(bound))
        for node in ast.walk(statement):
            try:
                box = self._box(node)
            except (_UnknownError, TypeError, ValueError):
                continue
            if box is not None:
                self.boxes.append(box)

    def _box(self, node: ast.AST) -> Box | None:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr != "crop":
                return None
            given = [*node.args, *(item.value for item in node.keywords)]
            values = self._value(given[0]) if len(given) == 1 else [*map(self._value, given)]
            left, top, right, bottom = map(float, values)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            # Rows first: picture[top:bottom, left:right].
            (top, bottom), (left, right) = self._slices(node.slice.elts[:2])
        else:
            return None
        # As the picture's edge cuts it; the pixels tell whether that is right.
        box = Box(max(left, 0), max(top, 0), min(right, self._width), min(bottom, self._height))
        return box if box.left < box.right and box.top < box.bottom else None

    def _slices(self, parts: Sequence[ast.expr]) -> Iterator[tuple[float, float]]:
        for part, length in zip(parts, (self._height, self._width), strict=True):
            if not isinstance(part, ast.Slice) or part.step is not None:
                raise _UnknownError
            low = self._value(part.lower) if part.lower else 0
            high = self._value(part.upper) if part.upper else length
            yield float(low), float(high if high >= 0 else length + high)

    def _value(self, node: ast.expr) -> Any:
        value = self._evaluate(node)
        if isinstance(value, (int, float)) and not abs(value) < LARGEST:
            raise _UnknownError
        return value

    def _evaluate(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name) and self._names.get(node.id) is not None:
            return self._names[node.id]
        if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) <= 16:
            return tuple(map(self._value, node.elts))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            pair = (self._value(node.left), self._value(node.right))
            if all(isinstance(item, (int, float)) for item in pair) and pair[1] != 0:
                return _OPERATORS[type(node.op)](*pair)
            if isinstance(node.op, (ast.Add, ast.Sub)):
                return _OPERATORS[type(node.op)](*pair)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id in _FUNCTIONS and len(node.args) <= 4:
                return _FUNCTIONS[node.func.id](*map(self._value, node.args))
        if isinstance(node, ast.Attribute):
            sizes = {
                "size": (self._width, self._height),
                "width": self._width,
                "height": self._height,
                "shape": (self._height, self._width, 3),
            }
            if node.attr in sizes:
                return sizes[node.attr]
        if isinstance(node, ast.Subscript):
            sequence = self._value(node.value)
            if isinstance(sequence, tuple):
                if isinstance(node.slice, ast.Slice):
                    upper = node.slice.upper
                    return sequence[: self._value(upper) if upper else None]
                index = self._value(node.slice)
                if isinstance(index, int) and -len(sequence) <= index < len(sequence):
                    return sequence[index]
        raise _UnknownError
