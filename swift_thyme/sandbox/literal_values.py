"""What is known about a program's values without running it.

Follows straight-line code from top to bottom: numbers, tuples, strings, and the sizes of images.
Whatever it does not understand is unknown, and an unknown value is never repaired.
"""

from __future__ import annotations

import ast
import math
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from swift_thyme.sandbox.session_config import ImageInfo

__all__ = ["KnownValues", "Picture", "UNKNOWN"]


class _Unknown:
    """The value of everything else."""


UNKNOWN = _Unknown()


class Picture(NamedTuple):
    """An image whose size is known."""

    width: int
    height: int
    is_array: bool
    """Whether it is a NumPy array rather than a Pillow image."""


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
    "tuple": tuple,
    "list": list,
}
_SAME_SIZE_METHODS = frozenset({"convert", "copy", "astype", "filter"})
_SAME_SIZE_CV2 = frozenset({"cvtColor", "GaussianBlur", "medianBlur", "convertScaleAbs", "flip"})
_MAX_SEQUENCE = 64


class KnownValues:
    """The names of a program with what is known of their values.

    Args:
        images: The input images, by whose paths image sizes are known.
        names: What earlier blocks left: only plain values and image sizes are looked at.
    """

    def __init__(self, images: Sequence[ImageInfo], names: dict[str, Any]) -> None:
        self._sizes = {i.path: (i.width, i.height) for i in images if i.width and i.height}
        self._only = next(iter(self._sizes.values())) if len(images) == 1 and self._sizes else None
        self._names = names
        self._local: dict[str, Any] = {}

    # -- statements ----------------------------------------------------------------------------

    def run(self, statement: ast.stmt) -> None:
        """Take over what an assignment says."""
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                self.bind(target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self.bind(statement.target, statement.value)
        else:
            self.forget(statement)

    def bind(self, target: ast.AST | None, value: ast.expr) -> None:
        """Bind a name, or a tuple of names, to the value of an expression."""
        if target is not None:
            self._store(target, self.value(value))

    def _store(self, target: ast.AST, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._local[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = list(value) if isinstance(value, (tuple, list)) else []
            fits = len(values) == len(target.elts)
            for index, element in enumerate(target.elts):
                self._store(element, values[index] if fits else UNKNOWN)
        else:
            self.forget(target)

    def forget(self, *nodes: ast.AST) -> None:
        """Make every name unknown that these nodes bind, or change through an index."""
        for root in nodes:
            for node in ast.walk(root):
                if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                    self._local[node.id] = UNKNOWN
                elif isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(
                    node.ctx, ast.Store
                ):
                    inner: ast.AST = node
                    while isinstance(inner, (ast.Subscript, ast.Attribute)):
                        inner = inner.value
                    if isinstance(inner, ast.Name) and not isinstance(self.value(inner), Picture):
                        self._local[inner.id] = UNKNOWN
                elif isinstance(node, (ast.Import, ast.ImportFrom)):
                    self.imported(node)
                elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    self._local[node.name] = UNKNOWN

    def imported(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Forget what a name stood for that an import binds."""
        for alias in statement.names:
            self._local.pop((alias.asname or alias.name).split(".")[0], None)

    # -- expressions ---------------------------------------------------------------------------

    def value(self, node: ast.AST) -> Any:
        """Return the value of an expression, or `UNKNOWN`."""
        try:
            return self._value(node)
        except (ArithmeticError, TypeError, ValueError, IndexError, AttributeError):
            return UNKNOWN

    def _value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, (int, float, str)) else UNKNOWN
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) <= _MAX_SEQUENCE:
            return tuple(self.value(element) for element in node.elts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_number(self.value(node.operand))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = _number(self.value(node.left)), _number(self.value(node.right))
            return _number(_OPERATORS[type(node.op)](left, right))
        if isinstance(node, ast.Attribute):
            return self._attribute(self.value(node.value), node.attr)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        return UNKNOWN

    def _name(self, name: str) -> Any:
        if name in self._local:
            return self._local[name]
        return _describe(self._names.get(name, UNKNOWN))

    def _attribute(self, value: Any, name: str) -> Any:
        if not isinstance(value, Picture):
            return UNKNOWN
        if value.is_array:
            return (value.height, value.width, UNKNOWN) if name == "shape" else UNKNOWN
        sizes = {
            "size": (value.width, value.height),
            "width": value.width,
            "height": value.height,
        }
        return sizes.get(name, UNKNOWN)

    def _subscript(self, node: ast.Subscript) -> Any:
        value = self.value(node.value)
        if isinstance(value, (tuple, list)):
            if isinstance(node.slice, ast.Slice):
                bounds = [
                    None if b is None else self.value(b)
                    for b in (node.slice.lower, node.slice.upper, node.slice.step)
                ]
                return value[slice(*bounds)]
            index = self.value(node.slice)
            return value[index] if isinstance(index, int) else UNKNOWN
        if isinstance(value, Picture) and value.is_array and isinstance(node.slice, ast.Tuple):
            return self._slice_picture(value, node.slice.elts)
        return UNKNOWN

    def _slice_picture(self, picture: Picture, parts: list[ast.expr]) -> Any:
        if len(parts) < 2:
            return UNKNOWN
        sides = []
        for part, length in zip(parts[:2], (picture.height, picture.width), strict=True):
            if not isinstance(part, ast.Slice):
                return UNKNOWN
            bounds = [
                None if b is None else self.value(b) for b in (part.lower, part.upper, part.step)
            ]
            if not all(b is None or isinstance(b, int) for b in bounds):
                return UNKNOWN
            sides.append(len(range(*slice(*bounds).indices(length))))
        return Picture(sides[1], sides[0], True)

    def _call(self, node: ast.Call) -> Any:
        arguments = [self.value(a) for a in node.args]
        if isinstance(node.func, ast.Name):
            function = _FUNCTIONS.get(node.func.id)
            if function is None or node.func.id in self._local or node.keywords:
                return UNKNOWN
            if any(_contains_unknown(a) for a in arguments):
                return UNKNOWN
            return function(*arguments)
        if not isinstance(node.func, ast.Attribute):
            return UNKNOWN
        owner, name = node.func.value, node.func.attr
        module = owner.id if isinstance(owner, ast.Name) else ""
        if (module, name) in (("cv2", "imread"), ("Image", "open")) and arguments:
            if len(arguments) > 1 and name == "imread" and not _is_plain_flag(node.args[1]):
                return UNKNOWN
            return self._opened(arguments[0], is_array=name == "imread")
        first = arguments[0] if arguments else UNKNOWN
        if isinstance(first, Picture):
            if module in ("np", "numpy") and name in ("array", "asarray"):
                return first._replace(is_array=True)
            if (module, name) == ("Image", "fromarray"):
                return first._replace(is_array=False)
            if module == "cv2" and name in _SAME_SIZE_CV2:
                return first
        value = self.value(owner)
        if not isinstance(value, Picture):
            return UNKNOWN
        if name in _SAME_SIZE_METHODS:
            return value
        if value.is_array:
            return UNKNOWN
        if name == "resize" and isinstance(first, tuple) and len(first) == 2:
            return Picture(_whole(first[0]), _whole(first[1]), False)
        if name == "crop" and isinstance(first, tuple) and len(first) == 4:
            x1, y1, x2, y2 = (_whole(side) for side in first)
            return Picture(x2 - x1, y2 - y1, False)
        return UNKNOWN

    def _opened(self, path: Any, is_array: bool) -> Any:
        size = self._sizes.get(path) if isinstance(path, str) else None
        if size is None and isinstance(path, str) and self._only and not os.path.exists(path):
            size = self._only  # opening it will be pointed to the only input image
        return UNKNOWN if size is None else Picture(*size, is_array)


def _is_plain_flag(node: ast.expr) -> bool:
    """Tell whether an imread flag keeps the size of the image."""
    if isinstance(node, ast.Attribute):
        return not node.attr.startswith("IMREAD_REDUCED")
    return isinstance(node, ast.Constant) and node.value in (0, 1, -1)


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("not a number")
    if abs(value) > 1e15 or math.isnan(value):
        raise ValueError("too large")
    return value


def _whole(value: Any) -> int:
    number = _number(value)
    return round(number)


def _contains_unknown(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_contains_unknown(v) for v in value)
    return isinstance(value, (_Unknown, Picture))


def _describe(value: Any) -> Any:
    """Return what is known of a value that an earlier block left."""
    kind = type(value)
    if kind in (int, float, str):
        return value
    if kind in (tuple, list) and len(value) <= _MAX_SEQUENCE:
        return tuple(_describe(v) for v in value)
    module = getattr(kind, "__module__", "")
    if module == "numpy" and kind.__name__ == "ndarray":
        shape = value.shape
        if len(shape) in (2, 3):
            return Picture(int(shape[1]), int(shape[0]), True)
    elif isinstance(module, str) and module.startswith("PIL.") and hasattr(value, "size"):
        width, height = value.size
        return Picture(int(width), int(height), False)
    return UNKNOWN
