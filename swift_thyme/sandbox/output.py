"""From raw bytes and untrusted reports to text and images in the order they were produced."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from typing import Any, NamedTuple

from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.sandbox.repair import REPAIR_NAMES
from swift_thyme.sandbox.rootfs import MOUNTED, OUTPUT_FOLDER
from swift_thyme.sandbox.session_config import ImageInfo, SessionConfig

__all__ = [
    "MAX_EVENTS",
    "CappedOutput",
    "FoundImages",
    "Hints",
    "assemble",
    "find_paths",
    "hints_from",
    "tidy_error",
]

MAX_EVENTS = 200
"""Saved files, and renamed ones, that a report can name."""

_SUFFIX = r"\.(?:png|jpe?g|bmp|webp|gif|tiff?|ppm)"
_WORD = re.compile(r"[^\s'\"`<>|()\[\]{},;=]+")
_SUFFIX_IN_WORD = re.compile(rf"{_SUFFIX}(?![\w.])", re.IGNORECASE)
_IMAGE_NAME = re.compile(rf".+{_SUFFIX}\Z", re.IGNORECASE)


class CappedOutput:
    """Collects output, keeping its head and its tail.

    Args:
        limit: Bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        """Add bytes that were printed."""
        self.total += len(data)
        room = self._limit // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail_size - len(self._tail[0]) >= self._limit - self._limit // 2:
                self._tail_size -= len(self._tail.popleft())

    @property
    def left_out(self) -> int:
        """Bytes that were printed and not kept."""
        return max(0, self.total - self._limit)

    def text(self) -> str:
        """Return the kept text, with a note where something was left out."""
        tail = b"".join(self._tail)
        keep = self._limit - self._limit // 2
        if not self.left_out:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        head = bytes(self._head).decode("utf-8", "replace")
        note = f"\n... [{self.left_out} bytes of output left out] ...\n"
        return head + note + tail[-keep:].decode("utf-8", "replace")

    def text_offset(self, offset: int) -> int:
        """Return the place in `text()`, in characters, of a byte offset in all output."""
        head = bytes(self._head)
        if offset <= len(head):
            return len(head[:offset].decode("utf-8", "replace"))
        if not self.left_out:
            everything = head + b"".join(self._tail)
            return len(everything[:offset].decode("utf-8", "replace"))
        return len(self.text())


class FoundImages(NamedTuple):
    """Files that may be images, and where in the text each belongs."""

    paths: list[str]
    """Real paths, in the order in which they were produced, each once."""
    places: list[tuple[int, int, str]]
    """(start, end, path): the text between start and end, if any, gives way to the image."""
    repairs: list[str]


def tidy_error(text: str, config: SessionConfig) -> str:
    """Return text without paths of the host."""
    if config.base is not None:
        for real, shown in zip(config.folders, MOUNTED, strict=True):
            text = text.replace(real, shown)
        text = text.replace(config.base, "/sandbox")
    for prefix in sorted({sys.prefix, sys.base_prefix, sys.exec_prefix}, key=len, reverse=True):
        if len(prefix) > 4:
            text = text.replace(prefix, "/python")
    return text


class Hints(NamedTuple):
    """What a block's process said about its images; untrusted, so these are hints only."""

    events: list[tuple[int, str]]
    """(place in the text, path) of each image that was saved or shown."""
    aliases: dict[str, str]
    """Path that the code names -> path at which the file was saved."""


def hints_from(report: dict[str, Any], output: CappedOutput) -> Hints:
    """Read the hints of a report, with byte offsets of the output made places in the text."""
    events = []
    said = report.get("events")
    for event in said[:MAX_EVENTS] if isinstance(said, list) else ():
        if not (isinstance(event, list) and len(event) == 2):
            continue
        offset, path = event
        if isinstance(offset, int) and isinstance(path, str):
            events.append((output.text_offset(max(0, offset)), path))
    return Hints(events, _strings(report.get("aliases")))


def find_paths(
    text: str,
    hints: Hints,
    changed: list[str],
    images: list[ImageInfo],
    config: SessionConfig,
) -> FoundImages:
    """Find the images that a block printed, saved or showed.

    Args:
        text: Its printed text.
        hints: What its process said about them.
        changed: Files that it made or changed, oldest first.
        images: The input images, which count only when their path is printed alone on a line.
        config: The session's surroundings.
    """
    inputs = {image.path for image in images}
    # An input below /tmp was placed there after the keeper last looked, so it looks new.
    shown = [path for path in (_shown(path, config) for path in changed) if path not in inputs]
    by_name: dict[str, str] = {}
    for path in shown:
        by_name.setdefault(os.path.basename(path), path)
    aliases = hints.aliases
    places: list[tuple[int, int, str]] = []
    repairs: list[str] = []
    seen: set[str] = set()
    start = 0
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        bare = line.strip().strip("'\"")
        if _IMAGE_NAME.match(bare):
            path = aliases.get(bare, bare)
            if path not in inputs:
                path = os.path.normpath(os.path.join(OUTPUT_FOLDER, path))
            if path not in shown and "/" not in bare and bare in by_name:
                path = by_name[bare]
            if "/" not in bare and path in shown:
                repairs.append("printed_base_name")
            if _allowed(path, inputs) and path not in seen:
                seen.add(path)
                places.append((start, end, path))
        else:
            for word in _paths_in(line):
                path = aliases.get(word, word)
                path = os.path.normpath(os.path.join(OUTPUT_FOLDER, path))
                if path in shown and path not in seen:
                    seen.add(path)
                    places.append((end, end, path))
        start = end
    for place, path in hints.events:
        if path in shown and path not in seen:
            seen.add(path)
            place = min(place, len(text))
            places.append((place, place, path))
    for path in shown:
        if path not in seen and _IMAGE_NAME.match(path):
            seen.add(path)
            places.append((len(text), len(text), path))
    places.sort(key=lambda place: place[0])
    return FoundImages([_hidden(path, images, config) for _, _, path in places], places, repairs)


def _paths_in(line: str) -> list[str]:
    """Return the words that look like image paths, in time linear in the line's length."""
    found = []
    for match in _WORD.finditer(line):
        ends = [suffix.end() for suffix in _SUFFIX_IN_WORD.finditer(match.group(0))]
        if ends:
            found.append(match.group(0)[: ends[-1]])
    return found


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, str)}


def _allowed(path: str, inputs: set[str]) -> bool:
    return path in inputs or any(path.startswith(f"{folder}/") for folder in MOUNTED)


def _shown(path: str, config: SessionConfig) -> str:
    """Return the path as the code knows it."""
    for real, shown in zip(config.folders, MOUNTED, strict=True):
        if path.startswith(f"{real}/"):
            return shown + path[len(real) :]
    return path


def _hidden(path: str, images: list[ImageInfo], config: SessionConfig) -> str:
    """Return the path as the session's own processes have to open it."""
    for image in images:
        if image.path == path:
            return image.real
    for real, shown in zip(config.folders, MOUNTED, strict=True):
        if path.startswith(f"{shown}/"):
            return real + path[len(shown) :]
    return path


def assemble(
    text: str,
    found: FoundImages,
    images: list[dict[str, Any]],
    report: dict[str, Any],
    status: ExecutionStatus,
    error: str | None,
) -> dict[str, Any]:
    """Return the header of a reply: status, error, repairs, images, and parts in order.

    A part is a string or the number of an image.
    """
    said = report.get("repairs")
    repairs = [r for r in said if isinstance(r, str)] if isinstance(said, list) else []
    repairs += found.repairs
    parts: list[str | int] = []
    returned: list[dict[str, Any]] = []
    refused: list[str] = []
    position = 0
    for (start, end, path), image in zip(found.places, images, strict=False):
        name = os.path.basename(path)
        start = max(start, position)
        if "blob" in image and start > position:
            parts.append(text[position:start])
            position = start
        if "blob" in image:
            parts.append(len(returned))
            returned.append({**image, "name": name, "path": ""})
            repairs += image.get("repairs", [])
            position = max(position, end)
        elif "refused" in image:
            note = f"image {name} is not returned: {image['refused']}"
            refused.append(note)
            parts.append(text[position : max(end, position)])
            parts.append(f"[{note}]\n")
            position = max(position, end)
    if position < len(text):
        parts.append(text[position:])
    if refused and not returned and status is ExecutionStatus.OK:
        status, error = ExecutionStatus.ERROR, "; ".join(refused[:3])
        parts = [part for part in parts if part not in {f"[{note}]\n" for note in refused}]
    known = [name for name in dict.fromkeys(repairs) if name in REPAIR_NAMES]
    return {
        "status": status.value,
        "error": error,
        "repairs": known,
        "images": returned,
        "parts": [part for part in parts if part != ""],
    }
