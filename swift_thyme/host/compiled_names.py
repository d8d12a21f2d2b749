"""The names in a module, read from its compiled code; the module is not run.

Python keeps the compiled code of a module that was once imported (``__pycache__``), so a look at a
large module takes a fraction of a millisecond and loads nothing. A name in a comment or inside a
longer text does not count.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType

__all__ = ["Scope", "find_scope", "package_folder", "read_module"]


class Scope:
    """A module, a class or a function.

    Args:
        codes: Its compiled code; several where a name is defined more than once, as a property and
            its setter are.
    """

    def __init__(self, codes: list[CodeType]) -> None:
        self._codes = codes

    def inner(self, name: str) -> Scope | None:
        """Return the class or function of that name directly inside; None where there is none."""
        found = [c for code in self._codes for c in _nested(code) if c.co_name == name]
        return Scope(found) if found else None

    def defines(self, name: str) -> bool:
        """Tell whether something of that name is defined, assigned, annotated or imported here."""
        return any(
            name in code.co_names
            # Annotations without a value, and the names of a lazy module, are texts.
            or _holds_text(code, name)
            or any(inner.co_name == name for inner in _nested(code))
            for code in self._codes
        )

    def takes(self, name: str) -> bool:
        """Tell whether a function has a parameter of that name."""
        return any(
            name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            for code in self._codes
        )

    def holds(self, name: str) -> bool:
        """Tell whether a function has a local variable of that name."""
        return any(name in code.co_varnames + code.co_cellvars for code in self._codes)

    def mentions(self, name: str) -> bool:
        """Tell whether the code uses that name: a global, an attribute, a parameter or a text."""
        return any(_mentions(code, name) for code in self._codes)


def _nested(code: CodeType) -> Iterator[CodeType]:
    return (const for const in code.co_consts if isinstance(const, CodeType))


def _holds_text(code: CodeType, text: str) -> bool:
    # The names of a `from ... import`, the keys of a lazy module and of a loop are tuples.
    return text in code.co_consts or any(
        isinstance(const, (tuple, frozenset)) and text in const for const in code.co_consts
    )


def _mentions(code: CodeType, name: str) -> bool:
    return (
        name in code.co_names
        or name in code.co_varnames
        or _holds_text(code, name)
        or any(_mentions(inner, name) for inner in _nested(code))
    )


def package_folder(package: str) -> Path | None:
    """Return the folder of a top-level package, which is not imported; None without it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a stand-in in `sys.modules` that was never loaded
        return None
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def read_module(name: str, folder: Path) -> Scope | None:
    """Return a module of a package; None where there is none of that name.

    Args:
        name: Dotted name, the package's own first.
        folder: The package's folder.
    """
    _, *parts = name.split(".")
    parent = folder.joinpath(*parts[:-1]) if parts else folder.parent
    finder = FileFinder(
        str(parent),
        (SourceFileLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    spec = finder.find_spec(name)
    get_code = getattr(spec.loader, "get_code", None) if spec else None
    code = get_code(name) if get_code else None
    return Scope([code]) if isinstance(code, CodeType) else None


def find_scope(module: Scope, path: str) -> Scope | None:
    """Follow a dotted path of classes and functions; the empty path is the module itself."""
    scope: Scope | None = module
    for name in filter(None, path.split(".")):
        scope = scope.inner(name) if scope is not None else None
    return scope
