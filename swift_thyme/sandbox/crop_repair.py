"""Repairs of crops whose bounds and whose picture's size are known before the program runs."""

from __future__ import annotations

import ast
import bisect
from typing import Any

from swift_thyme.sandbox.crop_boxes import fix_box
from swift_thyme.sandbox.literal_values import KnownValues, Picture

__all__ = ["CropRepair"]


class CropRepair(ast.NodeTransformer):
    """Follows the values of a program from top to bottom and mends crops that cannot work."""

    def __init__(self, known: KnownValues, repairs: list[str], lines: list[int]) -> None:
        self._known = known
        self._repairs = repairs
        self._lines = sorted(lines)
        """Where something can be to repair; nothing else is visited."""

    def repair(self, tree: ast.Module) -> None:
        """Repair the statements of a module in place."""
        self._statements(tree.body)

    def _statements(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if statement.lineno > self._lines[-1]:
                return  # what follows is of no interest to a crop
            if isinstance(statement, (ast.With, ast.Try)) or _is_main_guard(statement):
                if isinstance(statement, ast.With):
                    for item in statement.items:
                        item.context_expr = self.visit(item.context_expr)
                        self._known.bind(item.optional_vars, item.context_expr)
                self._statements(statement.body)  # type: ignore[attr-defined]
                if isinstance(statement, ast.Try):
                    for handler in statement.handlers:
                        self._known.forget(handler)
                    self._known.forget(*statement.orelse, *statement.finalbody)
            elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Expr)):
                if self._is_of_interest(statement):
                    self.visit(statement)
                self._known.run(statement)
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._known.imported(statement)
            else:
                # Loops, branches and functions may run never or often: nothing is known in them.
                self._known.forget(statement)

    def _is_of_interest(self, statement: ast.stmt) -> bool:
        index = bisect.bisect_left(self._lines, statement.lineno)
        end = statement.end_lineno or statement.lineno
        return index < len(self._lines) and self._lines[index] <= end

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Leave function bodies alone: their names are not the module's."""
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda  # type: ignore[assignment]

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Mend `image[y1:y2, x1:x2]`."""
        self.generic_visit(node)
        picture = self._known.value(node.value)
        if not isinstance(picture, Picture) or not picture.is_array:
            return node
        if not isinstance(node.ctx, ast.Load) or not isinstance(node.slice, ast.Tuple):
            return node
        parts = node.slice.elts
        if len(parts) < 2 or not all(
            isinstance(p, ast.Slice) and p.step is None for p in parts[:2]
        ):
            return node
        rows, columns = parts[:2]
        assert isinstance(rows, ast.Slice) and isinstance(columns, ast.Slice)
        bounds = [
            self._bound(columns.lower, 0),
            self._bound(rows.lower, 0),
            self._bound(columns.upper, picture.width),
            self._bound(rows.upper, picture.height),
        ]
        fixed = fix_box(bounds, picture.width, picture.height, clips_itself=True)
        if fixed is None:
            return node
        self._repairs += fixed.repairs
        x1, y1, x2, y2 = (ast.Constant(value) for value in fixed.box)
        parts[0], parts[1] = ast.Slice(y1, y2), ast.Slice(x1, x2)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Mend `image.crop((x1, y1, x2, y2))`."""
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "crop":
            return node
        picture = self._known.value(node.func.value)
        arguments = node.args or [k.value for k in node.keywords if k.arg == "box"]
        if not isinstance(picture, Picture) or picture.is_array or len(arguments) != 1:
            return node
        box = self._known.value(arguments[0])
        if not isinstance(box, (tuple, list)) or len(box) != 4:
            return node
        fixed = fix_box(list(box), picture.width, picture.height, clips_itself=False)
        if fixed is None:
            return node
        self._repairs += fixed.repairs
        new_box = ast.Tuple([ast.Constant(value) for value in fixed.box], ast.Load())
        node.args, node.keywords = [ast.copy_location(new_box, arguments[0])], []
        return node

    def _bound(self, node: ast.expr | None, default: int) -> Any:
        return default if node is None else self._known.value(node)


def _is_main_guard(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If)
        and isinstance(statement.test, ast.Compare)
        and isinstance(statement.test.left, ast.Name)
        and statement.test.left.id == "__name__"
    )
