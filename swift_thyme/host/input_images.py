"""The images of a training row as generated code finds them: upright, under the prompt's paths.

A row has images and, as a rule, a prompt that quotes a path for each. The first quoted path belongs
to the first image, the second to the second, and so on:

* An image for which no path is quoted has its own path, where it is a file, and otherwise a path of
  the default folder.
* Where more paths are quoted than there are images, a path counts once, however often it is quoted;
  paths that are left over name nothing.
* A path that is quoted for two different images is the first one's, and the other one has a path of
  the default folder.
* A path at which nothing can be placed is an error that names the row.

Trajectories of one row share what is read here, for as long as one of them waits for its sandbox.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from swift_thyme.core.errors import DataError
from swift_thyme.core.execution import InputImage
from swift_thyme.core.images import locate, sniff
from swift_thyme.core.pictures import header, upright_bytes
from swift_thyme.core.protocol import parse_user_prompt

__all__ = ["InputPicture", "PictureReader", "path_problem", "place_images", "quoted_paths"]

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_PATH = "/mnt/data/images/{index}{suffix}"
"""Where the sandbox shows an image that has a path neither in the prompt nor in the row."""

_LONGEST_PATH, _LONGEST_NAME = 4095, 255
"""Bytes; what a file system takes."""


@dataclass(frozen=True, eq=False)
class InputPicture:
    """An image of a row, checked and upright."""

    source: bytes | Path
    """Encoded bytes, or a file that is upright as it is."""
    own_path: str | None
    """Absolute path of the row's file; None where the row holds the image itself."""


class PictureReader:
    """Reads images in ms-swift's forms; an image in use is not read again for equal text."""

    def __init__(self) -> None:
        self._in_use: WeakValueDictionary[str, InputPicture] = WeakValueDictionary()

    def read(self, value: Any, name: str) -> InputPicture:
        """Return an image; decodes and encodes only one that is not upright.

        Args:
            value: The image as ms-swift hands it over.
            name: What it is called in a message.

        Raises:
            DataError: It is missing, no image, or broken.
        """
        if not isinstance(value, str):
            return _read(value, name)
        picture = self._in_use.get(value)
        if picture is None:
            picture = self._in_use[value] = _read(value, name)
        return picture


def _read(value: Any, name: str) -> InputPicture:
    content = locate(value, name).content
    turn = header(content, name).orientation
    own_path = str(content.resolve()) if isinstance(content, Path) else None
    if turn != 1:
        data = content.read_bytes() if isinstance(content, Path) else content
        content = upright_bytes(data, name)
    return InputPicture(content, own_path)


def quoted_paths(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the image paths that the user's messages quote, in order."""
    paths: list[str] = []
    for message in messages:
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, str):
            found = parse_user_prompt(content)
            paths.extend(found.paths if found else ())
    return paths


def place_images(
    messages: Iterable[Mapping[str, Any]], pictures: Sequence[InputPicture], row: str
) -> list[InputImage]:
    """Return the images of a row under the paths that generated code will open.

    Args:
        messages: The prompt.
        pictures: The row's images.
        row: What the row is called in a message.

    Raises:
        DataError: A path is quoted at which nothing can be placed.
    """
    quoted = quoted_paths(messages)
    if len(quoted) > len(pictures):
        quoted = list(dict.fromkeys(quoted))
        if len(quoted) > len(pictures):
            logger.warning("%s quotes %d image paths for %d", row, len(quoted), len(pictures))
    images: dict[str, InputImage] = {}
    for index, picture in enumerate(pictures):
        wanted = quoted[index] if index < len(quoted) else ""
        problem = path_problem(wanted) if wanted else None
        if problem is not None:
            raise DataError(f"{row} quotes the image path {wanted!r}, which {problem}")
        path = wanted or picture.own_path or _default_path(index, picture)
        taken = images.get(path)
        if taken is not None:
            if taken.source == picture.source:
                continue
            path, used = _default_path(index, picture), path
            logger.warning("%s has two images for %r; one of them is at %r", row, used, path)
        images[path] = InputImage(path, picture.source)
    return list(images.values())


def _default_path(index: int, picture: InputPicture) -> str:
    kind = sniff(picture.source) if isinstance(picture.source, bytes) else None
    return DEFAULT_IMAGE_PATH.format(index=index, suffix=kind.suffix if kind else ".png")


def path_problem(path: str) -> str | None:
    """Return why the sandbox can place nothing at a path, None where it can."""
    if not path.startswith("/") or posixpath.normpath(path) != path or "\0" in path:
        return "is not an absolute path without '.', '..' and doubled slashes"
    try:
        names = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:
        return "holds half a surrogate pair"
    if max(map(len, names)) > _LONGEST_NAME or sum(map(len, names)) + len(names) > _LONGEST_PATH:
        return "is longer than a path can be"
    for folder in _read_only_folders():
        if path.startswith(f"{folder}/") and not os.path.lexists(path):
            return f"lies in {folder}, where the sandbox can place nothing"
    return None


@functools.cache
def _read_only_folders() -> tuple[str, ...]:
    from swift_thyme.sandbox.rootfs import readable_paths

    return (*readable_paths(), "/proc")
