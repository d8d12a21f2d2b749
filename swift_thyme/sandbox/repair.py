"""Repairs of a program before it runs, each with a name, each only where it is needed.

The intent is that of the published sandbox (Thyme facts: indentation, image paths, crop boxes,
`cv2` aliases), the means are different: text is touched only where it does not parse, everything
else happens on the syntax tree, and a crop is changed only where its bounds and the size of the
image are both known and the crop as written would be empty, fail, or reach out of the image
(`text_repair`, `crop_repair`). Repairs that depend on what a call does at run time are in `shims`;
the encoder repairs images that cannot be returned as they are. `REPAIR_NAMES` lists them all.
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

from swift_thyme.sandbox.crop_repair import CropRepair
from swift_thyme.sandbox.literal_values import KnownValues
from swift_thyme.sandbox.session_config import ImageInfo
from swift_thyme.sandbox.text_repair import repair_text

__all__ = ["REPAIR_NAMES", "RepairedCode", "preset_names", "repair_code"]

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
_INPUT_NAMES = frozenset({"image_path", "img_path", "input_path", "input_image_path", "image_file"})
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


def repair_code(code: str, images: Sequence[ImageInfo], names: dict[str, Any]) -> RepairedCode:
    """Return the program with the repairs that it needs.

    Args:
        code: The program as the model wrote it.
        images: The input images of the session.
        names: The names that earlier blocks left.

    Raises:
        SyntaxError: It does not parse, whatever is tried.
        ValueError: It holds a null byte.
    """
    source, tree, repairs = repair_text(code)
    nodes = _Nodes(tree)
    _repair_image_paths(nodes, images, repairs)
    _repair_names(tree, nodes, names, repairs)
    if nodes.crops:
        CropRepair(KnownValues(images, names), repairs, nodes.crops).repair(tree)
    if repairs:
        ast.fix_missing_locations(tree)
    return RepairedCode(
        tree, source, list(dict.fromkeys(repairs)), "processed_path" in nodes.stored
    )


class _Nodes:
    """The nodes of a program that repairs look at, found in one pass."""

    def __init__(self, tree: ast.Module) -> None:
        self.loads: list[ast.Name] = []
        self.stored: set[str] = set()
        """Names that are assigned to or deleted."""
        self.bound: set[str] = set()
        """Names that the program binds in any other way."""
        self.assignments: list[ast.Assign] = []
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.crops: list[int] = []
        """Lines of what `CropRepair` could change."""
        pending: list[ast.AST] = [tree]
        while pending:
            node = pending.pop()
            kind = type(node)
            # The usual kinds first, without looking at fields that cannot hold a name: this runs
            # before every block.
            if kind is ast.Name:
                assert isinstance(node, ast.Name)
                if type(node.ctx) is ast.Load:
                    self.loads.append(node)
                else:
                    self.stored.add(node.id)
            elif kind is ast.Constant:
                continue
            elif kind is ast.Attribute:
                assert isinstance(node, ast.Attribute)
                if node.attr == "crop":
                    self.crops.append(node.lineno)
                pending.append(node.value)
            elif kind is ast.Call:
                assert isinstance(node, ast.Call)
                pending += [keyword.value for keyword in reversed(node.keywords)]
                pending += reversed(node.args)
                pending.append(node.func)
            else:
                self._note(node)
                pending += reversed(_children(node))

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Subscript):
            if isinstance(node.slice, ast.Tuple):
                self.crops.append(node.lineno)
        elif isinstance(node, ast.Assign):
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


def _children(node: ast.AST) -> list[ast.AST]:
    """Return the nodes right below a node, in the order of the program."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if type(value) is list:
            found += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST) and value._fields:
            found.append(value)  # contexts and operators have no fields
    return found


def _repair_image_paths(nodes: _Nodes, images: Sequence[ImageInfo], repairs: list[str]) -> None:
    """Point `image_path = "<a file that does not exist>"` to the input image."""
    if not images:
        return
    for node in nodes.assignments:
        if not isinstance(node.value, ast.Constant):
            continue
        path = node.value.value
        targets = [t.id for t in node.targets if isinstance(t, ast.Name)]
        if not isinstance(path, str) or not _INPUT_NAMES.intersection(targets):
            continue
        by_name = [i.path for i in images if os.path.basename(i.path) == os.path.basename(path)]
        if os.path.exists(path) or not _IMAGE_FILE.match(path):
            continue
        if by_name or not path.startswith(_WRITABLE):
            node.value = ast.copy_location(
                ast.Constant(by_name[0] if by_name else images[0].path), node.value
            )
            repairs.append("image_path")


def _repair_names(
    tree: ast.Module, nodes: _Nodes, names: dict[str, Any], repairs: list[str]
) -> None:
    """Rename aliases of cv2 and import what was forgotten; only names that nothing binds."""
    for node in nodes.imports:
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name in _CV2_ALIASES:
                alias.asname = alias.asname or alias.name
                alias.name = "cv2"
                repairs.append("cv2_alias")
    missing: dict[str, str] = {}
    for name in nodes.loads:
        bound = name.id in nodes.stored or name.id in nodes.bound
        if bound or name.id in names or hasattr(builtins, name.id):
            continue
        if name.id in _CV2_ALIASES:
            name.id = "cv2"
            repairs.append("cv2_alias")
        elif name.id in _IMPORTS:
            missing[name.id] = _IMPORTS[name.id]
    if missing:
        repairs.append("missing_import")
        imports = ast.parse("\n".join(missing.values())).body
        # All on the first line, so that the lines of the program keep their numbers.
        for statement in imports:
            statement.lineno = statement.end_lineno = 1
        start = 1 if _has_docstring_or_future(tree) else 0
        tree.body[start:start] = imports


def _has_docstring_or_future(tree: ast.Module) -> bool:
    if not tree.body:
        return False
    first = tree.body[0]
    if isinstance(first, ast.ImportFrom) and first.module == "__future__":
        return True
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
