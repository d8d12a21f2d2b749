"""Paths that lie elsewhere than the program says, and functions that know it.

Files that were saved where nothing can be written are found again under their path, and so are
folders that were made there. On a host without mount namespaces the private folders and the input
images lie in a session folder. The functions that take a path are changed when the first path is
moved; before that nothing is.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
from collections.abc import Callable
from typing import Any

from swift_thyme.sandbox.rootfs import MOUNTED, PrivateFolders
from swift_thyme.sandbox.session_config import ImageInfo

__all__ = ["MOVED", "PathMap", "install_path_map", "moved", "real"]


class PathMap:
    """What a session moved, for the rest of its life.

    Attributes:
        files: Absolute path that the program names -> where the file is.
        folders: The same for folders and all below them.
        used: Path as the program named it -> where it is, in this block.
    """

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.used: dict[str, str] = {}
        self.session: Callable[[str], str] | None = None
        self.is_installed = False

    def move_file(self, path: str, place: str) -> None:
        """Find a file under a path from now on at which it is not."""
        self.files[os.path.abspath(path)] = place
        _install()

    def move_folder(self, path: str, place: str) -> None:
        """Find a folder under a path from now on at which it is not."""
        self.folders[os.path.abspath(path)] = place
        _install()


MOVED = PathMap()
_lstat, _getcwd = os.lstat, os.getcwd


def moved(path: Any) -> Any:
    """Return where a path is that the program moved, as the program can name it."""
    if not MOVED.files and not MOVED.folders:
        return path
    if not isinstance(path, (str, os.PathLike)):
        return path
    text = os.fspath(path)
    if not isinstance(text, str):
        return path
    absolute = os.path.abspath(text)
    place = MOVED.files.get(absolute)
    if place is None:
        place = _in_folder(absolute)
    if place is None:
        return path
    MOVED.used[text] = place
    return place


def _in_folder(absolute: str) -> str | None:
    for folder, place in MOVED.folders.items():
        if absolute == folder or absolute.startswith(f"{folder}/"):
            try:
                _lstat(absolute)
            except OSError:
                return place + absolute[len(folder) :]
            return None  # it is there itself
    return None


def real(path: Any) -> Any:
    """Return where a path is for the system."""
    path = moved(path)
    if MOVED.session is None or not isinstance(path, (str, os.PathLike)):
        return path
    text = os.fspath(path)
    if not isinstance(text, str):
        return path
    place = MOVED.session(text)
    return path if place == text else place


def install_path_map(
    folders: PrivateFolders, images: list[ImageInfo], tools: tuple[str, ...] = ()
) -> None:
    """Make the paths of the prompt work on a host without mount namespaces.

    Tools are where they are, also below /tmp.
    """
    prefixes = list(zip(MOUNTED, folders, strict=True))
    exact = {image.path: image.real for image in images}

    def mapped(text: str) -> str:
        if text in exact:
            return exact[text]
        if any(text == tool or text.startswith(f"{tool}/") for tool in tools):
            return text
        for old, new in prefixes:
            if text == old or text.startswith(f"{old}/"):
                return new + text[len(old) :]
        return text

    def shown(path: str) -> str:
        for old, new in prefixes:
            if path == new or path.startswith(f"{new}/"):
                return old + path[len(new) :]
        return path

    MOVED.session = mapped
    _install()
    os.getcwd = lambda: shown(_getcwd())


def _install() -> None:
    if MOVED.is_installed:
        return
    MOVED.is_installed = True
    for name in _PATH_FUNCTIONS:
        setattr(os, name, _with_mapped_path(getattr(os, name), 1))
    for name in ("rename", "replace", "link", "symlink"):
        setattr(os, name, _with_mapped_path(getattr(os, name), 2))
    builtins.open = io.open = _with_mapped_path(builtins.open, 1)


_PATH_FUNCTIONS = (
    "stat",
    "lstat",
    "listdir",
    "scandir",
    "rmdir",
    "remove",
    "unlink",
    "access",
    "open",
    "chdir",
    "chmod",
    "utime",
    "readlink",
    "truncate",
)
"""All but `mkdir`, which `shims` changes from the beginning."""


def _with_mapped_path(function: Any, count: int) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(real(a) for a in args[:count]), *args[count:], **kwargs)

    return call
