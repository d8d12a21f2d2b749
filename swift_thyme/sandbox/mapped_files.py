"""Notes whether a program maps files into its memory, where it can change them unseen.

A file that is changed through a mapping keeps its times on the file systems that sessions use.
Where a program has such mappings, its files are copied and restored without a look at times.
"""

from __future__ import annotations

import mmap
from typing import Any

__all__ = ["install", "maps_files"]

_state = {"maps_files": False}


class _Mapping(mmap.mmap):
    """A mapping whose making is noted, if it is one of a file."""

    def __new__(cls, fileno: int, *args: Any, **kwargs: Any) -> _Mapping:
        if fileno != -1:
            _state["maps_files"] = True
        return super().__new__(cls, fileno, *args, **kwargs)


_Mapping.__name__ = _Mapping.__qualname__ = "mmap"


def install() -> None:
    """Put the class that takes notes in the place of `mmap.mmap`."""
    mmap.mmap = _Mapping  # type: ignore[misc]


def maps_files() -> bool:
    """Tell whether this process, or one that it was forked from, has mapped a file."""
    return _state["maps_files"]
