"""Repairs of programs, each with a name, each only where the program does not work without it.

The intent is that of the published sandbox (Thyme facts: indentation, image paths, crop boxes,
`cv2` aliases), the means are different. Text is touched before the program runs, and only where
it does not parse (`text_repair`). Everything else waits for a run of the program as it is:
`second_run` says what a further run could repair. Names and paths are repaired in the syntax
tree, crops (`crop_watch`) and calls (`shims`) while the program runs; the encoder repairs images
that cannot be returned as they are. `REPAIR_NAMES` lists them all.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import os
import random
import re
import string
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from swift_thyme.sandbox.crop_watch import CROPS, WatchedCrop, watch_crops
from swift_thyme.sandbox.input_names import INPUT_NAMES
from swift_thyme.sandbox.mending import Mending
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS, ImageInfo
from swift_thyme.sandbox.text_repair import repair_text

__all__ = [
    "REPAIR_NAMES",
    "RepairedCode",
    "as_it_was_run",
    "preset_names",
    "repair_code",
    "second_run",
]

REPAIR_NAMES = frozenset(
    {
        # text, where it does not parse
        "strip_code_tags",
        "strip_fence",
        "dedent",
        "indent_first_line",
        "normalise_characters",
        # syntax tree
        "image_path",
        "cv2_alias",
        "missing_import",
        "swap_crop",
        "clamp_crop",
        "widen_crop",
        "scale_crop",
        "integer_crop",
        # calls (shims)
        "input_path",
        "output_path",
        "output_folder",
        "keep_input",
        "flatten_alpha",
        # printing (shims, output)
        "print_processed_path",
        "printed_base_name",
        # returned images (encoder)
        "enlarge_small_image",
        "shrink_large_image",
    }
)
"""Every name that `ExecutionResult.repairs` can hold."""

_IMAGE_FILE = re.compile(r".+\.(?:png|jpe?g|bmp|webp|gif|tiff?)\Z", re.IGNORECASE)
_CV2_ALIASES = frozenset({"cv", "cv3", "cv4", "CV", "CV2", "Cv2"})
_WRITABLE = ("/mnt/data/temp_processed_images/", "/tmp/", "/dev/shm/")

_IMPORTS = {
    "plt": "import matplotlib.pyplot as plt",
    "matplotlib": "import matplotlib",
    "ImageDraw": "from PIL import ImageDraw",
    "ImageFont": "from PIL import ImageFont",
    "ImageEnhance": "from PIL import ImageEnhance",
    "ImageFilter": "from PIL import ImageFilter",
    "ImageOps": "from PIL import ImageOps",
    "ImageChops": "from PIL import ImageChops",
    "PIL": "import PIL.Image",
    "scipy": "import scipy",
    "ndimage": "from scipy import ndimage",
    "sympy": "import sympy",
    "pd": "import pandas as pd",
    "uuid": "import uuid",
    "uuid4": "from uuid import uuid4",
    "time": "import time",
    "sys": "import sys",
    "io": "import io",
    "glob": "import glob",
    "shutil": "import shutil",
    "base64": "import base64",
    "itertools": "import itertools",
    "collections": "import collections",
    "statistics": "import statistics",
    "Counter": "from collections import Counter",
    "defaultdict": "from collections import defaultdict",
    "Path": "from pathlib import Path",
    "Fraction": "from fractions import Fraction",
    "sqrt": "from math import sqrt",
}
"""Names whose import is often forgotten, and the one import they can only have meant."""


class RepairedCode(NamedTuple):
    """A program ready to be compiled."""

    tree: ast.Module
    source: str
    """The text that the tree's line numbers refer to."""
    repairs: list[str]
    crops: list[WatchedCrop]
    assigns_processed_path: bool
    """Whether the block itself sets `processed_path`."""


def preset_names(images: Sequence[ImageInfo]) -> dict[str, Any]:
    """Return the names that exist before the first block (Thyme facts: pre-set names)."""
    names: dict[str, Any] = {
        "__name__": "__main__",
        "os": os,
        "math": math,
        "json": json,
        "re": re,
        "random": random,
        "string": string,
    }
    for name, module in (
        ("np", "numpy"),
        ("numpy", "numpy"),
        ("cv2", "cv2"),
        ("Image", "PIL.Image"),
    ):
        if module in sys.modules:
            names[name] = sys.modules[module]
    if images:
        names["image_path"] = images[0].path
    return names


def repair_code(
    code: str,
    images: Sequence[ImageInfo],
    names: dict[str, Any],
    mending: Mending,
    block: int,
) -> RepairedCode:
    """Return the program with the repairs that it needs to be compiled, and those asked for.

    Args:
        code: The program as the model wrote it.
        images: The input images of the session.
        names: The names that earlier blocks left.
        mending: What is repaired in this run.
        block: The number of the block.

    Raises:
        SyntaxError: It does not parse, whatever is tried.
        ValueError: It holds a null byte.
    """
    source, tree, repairs = repair_text(code)
    if mending.paths:
        _repair_image_paths(_Nodes(tree), images, mending.paths, repairs)
    if mending.names:
        _repair_names(tree, _Nodes(tree), names, mending.names, repairs)
    crops, sets_path = watch_crops(tree, block)
    return RepairedCode(tree, source, list(dict.fromkeys(repairs)), crops, sets_path)


def second_run(
    problem: BaseException | None,
    source: str,
    images: Sequence[ImageInfo],
    missed: Mending,
    done: Mending,
) -> Mending | None:
    """Return what a further run of a block could repair; None where nothing is left to try.

    Args:
        problem: What ended the program; None where nothing did.
        source: The program.
        images: The input images of the session.
        missed: What calls would have repaired.
        done: What was repaired in this run.
    """
    if problem is None:
        crops, folders = CROPS.to_mend(failed=False, by_crop=False), missed.folders
        if not crops and not folders:
            return None
        tree = ast.parse(source)
        crops = () if _looks_for_nothing(tree) else crops
        found = Mending(crops=crops, folders=folders and not _asks_if_written(tree))
    elif isinstance(problem, (NameError, ImportError)):
        names = _missing_names(problem)
        found = Mending(names=names, crops=CROPS.to_mend(failed=True, by_crop=False))
    else:
        paths = _missing_paths(source, images)
        crops = CROPS.to_mend(failed=True, by_crop=True)
        found = Mending(paths=paths, calls=missed.calls, crops=crops)
    both = done | found
    return both if both != done else None


def _missing_names(problem: NameError | ImportError) -> tuple[str, ...]:
    name = getattr(problem, "name", None)
    known = _CV2_ALIASES if isinstance(problem, ImportError) else _CV2_ALIASES | _IMPORTS.keys()
    return (name,) if name in known else ()


def _missing_paths(source: str, images: Sequence[ImageInfo]) -> tuple[str, ...]:
    """Return the files that the program names as its input and that are not there."""
    try:
        nodes = _Nodes(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    found = [node.value.value for node in _input_paths(nodes, images)]  # type: ignore[attr-defined]
    return tuple(path for path in found if len(path) <= MAX_PATH_CHARS)


_SIZES = frozenset({"size", "shape", "width", "height"})


def _looks_for_nothing(tree: ast.Module) -> bool:
    """Tell whether a program asks for itself if a crop is empty."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            inner = list(ast.walk(node))
            sizes = any(isinstance(n, ast.Attribute) and n.attr in _SIZES for n in inner)
            if sizes and any(isinstance(n, ast.Constant) and n.value in (0, 1) for n in inner):
                return True
        elif isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Assert)):
            if _is_size(node.test):
                return True
        elif isinstance(node, ast.BoolOp) and any(map(_is_size, node.values)):
            return True
    return False


def _asks_if_written(tree: ast.Module) -> bool:
    """Tell whether a program uses what a call of `cv2.imwrite` returns."""
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "imwrite"
        and id(node) not in statements
        for node in ast.walk(tree)
    )


def _is_size(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node = node.operand
    return isinstance(node, ast.Attribute) and node.attr in _SIZES


def as_it_was_run(code: str, program: RepairedCode) -> str | None:
    """Return the text of a program with its repairs, or None where it ran as it was written.

    The tree is of no use afterwards.
    """
    for crop in program.crops:
        crop.node.value, crop.node.slice = crop.value, crop.index
    notes = []
    calls = {
        (n.lineno, n.end_lineno, n.end_col_offset): n
        for n in ast.walk(program.tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    }
    slices = {crop.place: crop.index for crop in program.crops}
    for place, boxes in CROPS.mended.items():
        x1, y1, x2, y2 = (None if side is None else ast.Constant(side) for side in boxes[0])
        index, call = slices.get(place), calls.get(place[1:])
        if len(set(boxes)) > 1:
            notes.append(
                f"# line {place[1]}: {len(boxes)} crops were mended, the first to {boxes[0]}"
            )
        elif isinstance(index, ast.Tuple):
            index.elts[:2] = ast.Slice(y1, y2), ast.Slice(x1, x2)
        elif call is not None:
            sides: list[ast.expr] = [s for s in (x1, y1, x2, y2) if s is not None]
            call.args, call.keywords = [ast.Tuple(sides, ast.Load())], []
        else:
            notes.append(f"# a crop of block {place[0]} was mended to {boxes[0]}")
    if not CROPS.mended and not {"image_path", "cv2_alias", "missing_import"} & {*program.repairs}:
        return program.source if program.source != code else None
    return "\n".join([ast.unparse(ast.fix_missing_locations(program.tree)), *notes])


class _Nodes:
    """The nodes of a program that repairs of names look at."""

    def __init__(self, tree: ast.Module) -> None:
        self.loads: list[ast.Name] = []
        self.stored: set[str] = set()
        """Names that are assigned to or deleted."""
        self.bound: set[str] = set()
        """Names that the program binds in any other way."""
        self.assignments: list[ast.Assign] = []
        self.imports: list[ast.Import | ast.ImportFrom] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    self.loads.append(node)
                else:
                    self.stored.add(node.id)
            else:
                self._note(node)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            self.assignments.append(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports.append(node)
            self.bound.update((a.asname or a.name).split(".")[0] for a in node.names)
            if any(alias.name == "*" for alias in node.names):
                self.bound.update(_IMPORTS, _CV2_ALIASES)  # unknown: leave every name alone
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            self.bound.add(node.name)
        elif isinstance(node, ast.arg):
            self.bound.add(node.arg)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            self.bound.add(node.name)


def _input_paths(nodes: _Nodes, images: Sequence[ImageInfo]) -> list[ast.Assign]:
    """Return `image_path = "<a file that does not exist>"`, in all spellings."""
    found = []
    for node in nodes.assignments if images else ():
        if not isinstance(node.value, ast.Constant):
            continue
        path = node.value.value
        targets = [t.id for t in node.targets if isinstance(t, ast.Name)]
        if not isinstance(path, str) or not INPUT_NAMES.intersection(targets):
            continue
        if not _IMAGE_FILE.match(path) or os.path.exists(path):
            continue
        if not path.startswith(_WRITABLE) or _named_like(path, images):
            found.append(node)
    return found


def _named_like(path: str, images: Sequence[ImageInfo]) -> str | None:
    name = os.path.basename(path)
    return next((i.path for i in images if os.path.basename(i.path) == name), None)


def _repair_image_paths(
    nodes: _Nodes, images: Sequence[ImageInfo], paths: Sequence[str], repairs: list[str]
) -> None:
    """Point names of the input to the input image."""
    for node in _input_paths(nodes, images):
        assert isinstance(node.value, ast.Constant)
        path = node.value.value
        if isinstance(path, str) and path in paths:
            meant = _named_like(path, images) or images[0].path
            node.value = ast.copy_location(ast.Constant(meant), node.value)
            repairs.append("image_path")


def _repair_names(
    tree: ast.Module,
    nodes: _Nodes,
    names: dict[str, Any],
    missing: Sequence[str],
    repairs: list[str],
) -> None:
    """Rename aliases of cv2 and import what was forgotten; only names that nothing binds.

    Args:
        tree: The program; it is changed.
        nodes: Its nodes.
        names: The names that earlier blocks left.
        missing: Names that were found missing; functions of earlier blocks can need them.
        repairs: Where the names of the repairs go.
    """
    for node in nodes.imports:
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name in _CV2_ALIASES:
                alias.asname = alias.asname or alias.name
                alias.name = "cv2"
                repairs.append("cv2_alias")
    statements: dict[str, str] = {}
    for name in dict.fromkeys([*(node.id for node in nodes.loads), *missing]):
        bound = name in nodes.stored or name in nodes.bound
        if bound or name in names or hasattr(builtins, name):
            continue
        if name in _CV2_ALIASES:
            statements[name] = f"import cv2 as {name}"
            repairs.append("cv2_alias")
        elif name in _IMPORTS:
            statements[name] = _IMPORTS[name]
            repairs.append("missing_import")
    imports = ast.parse("\n".join(statements.values())).body
    start = _after_docstring_and_future(tree)
    # All on one line that is there, so that the lines of the program keep their numbers.
    line = tree.body[start].lineno if start < len(tree.body) else 1
    for statement in imports:
        for part in ast.walk(statement):
            if hasattr(part, "lineno"):
                part.lineno = part.end_lineno = line  # type: ignore[attr-defined]
    tree.body[start:start] = imports


def _after_docstring_and_future(tree: ast.Module) -> int:
    """Return the place of the first statement that an import may stand before."""
    for number, node in enumerate(tree.body):
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_future and not (is_text and number == 0):
            return number
    return len(tree.body)
