"""Tools of one's own: which Python modules the paths of `THYME_SANDBOX_TOOLS` stand for.

A file `zoom.py` is the module `zoom`. A folder with an `__init__.py` is the package of its name.
Any other folder holds modules and packages; those whose name begins with `_` can be imported, but
are not offered. Nothing is run here; `tool_loading` does that in a worker.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from swift_thyme.core.environment import unusable

__all__ = ["VARIABLE", "Tool", "find_tools", "tool_paths"]

VARIABLE = "THYME_SANDBOX_TOOLS"


@dataclass(frozen=True, slots=True)
class Tool:
    """One module that generated code can import."""

    name: str
    """What to import."""
    path: str
    """Its file, or the folder of its package."""
    given: str
    """The path of the setting that it belongs to."""

    @property
    def is_in_folder(self) -> bool:
        """Whether it is one of the modules of a folder."""
        return self.path != self.given


def find_tools(paths: Sequence[str]) -> tuple[Tool, ...]:
    """Return the modules of all paths, in their order.

    Args:
        paths: Absolute paths.

    Raises:
        SettingsError: A path is missing, is no Python module and holds none, or a name is there
            twice.
    """
    found: dict[str, Tool] = {}
    for path in paths:
        for tool in _tools_of(path):
            if tool.name in found:
                why = f"{tool.name} is there twice, also at {found[tool.name].path}"
                raise unusable(VARIABLE, path, why)
            found[tool.name] = tool
    return tuple(found.values())


def tool_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths as a worker needs them: absolute, `~` replaced, and none twice.

    Raises:
        SettingsError: One of them is no tool; see `find_tools`.
    """
    whole = tuple(dict.fromkeys(os.path.abspath(os.path.expanduser(path)) for path in paths))
    find_tools(whole)
    return whole


def _tools_of(path: str) -> list[Tool]:
    name = _module_name(path)
    if name:
        return [Tool(name, path, path)]
    if not os.path.lexists(path):
        raise unusable(VARIABLE, path, "there is no such file or folder")
    if not os.path.isdir(path):
        why = "it is no Python file with a name that can be imported, such as zoom.py"
        raise unusable(VARIABLE, path, why)
    try:
        places = [os.path.join(path, entry) for entry in sorted(os.listdir(path))]
    except OSError as error:
        raise unusable(VARIABLE, path, f"it cannot be read ({error.strerror})") from error
    found = [Tool(module, place, path) for place in places if (module := _module_name(place))]
    found = [tool for tool in found if not tool.name.startswith("_")]
    if not found:
        raise unusable(VARIABLE, path, "no Python module lies in it")
    return found


def _module_name(path: str) -> str:
    """Return the name under which a path can be imported; empty where it cannot."""
    name = os.path.basename(path)
    if os.path.isfile(path):
        name, suffix = os.path.splitext(name)
        return name if suffix == ".py" and name.isidentifier() else ""
    is_package = os.path.isfile(os.path.join(path, "__init__.py"))
    return name if is_package and name.isidentifier() else ""
