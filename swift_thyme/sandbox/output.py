"""From raw bytes and untrusted reports to text and images in the order they were produced."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.core.observation import only_saved_note, visible
from swift_thyme.sandbox.messages import (
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    BlockReport,
    ImagesFound,
    SavedFile,
)
from swift_thyme.sandbox.process_environment import package_root
from swift_thyme.sandbox.repair import REPAIR_NAMES
from swift_thyme.sandbox.rootfs import MOUNTED, OUTPUT_FOLDER
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import ImageInfo, SessionConfig
from swift_thyme.sandbox.wire import clean_text

__all__ = [
    "CappedOutput",
    "FoundPaths",
    "Hints",
    "assemble",
    "changed_limit",
    "find_paths",
    "hints_from",
    "shown_name",
    "tidy_error",
]

_PACKAGE = f"{package_root()}/swift_thyme/"
_SUFFIX = r"\.(?:png|jpe?g|bmp|webp|gif|tiff?|ppm)"
_WORD = re.compile(r"[^\s'\"`<>|()\[\]{},;=]+")
_SUFFIX_IN_WORD = re.compile(rf"{_SUFFIX}(?![\w.])", re.IGNORECASE)
_UNSEEN_IN_NAMES = re.compile("[\n\t\u200b\u2060-\u2064\ufeff]")
"""What may stand in a text, or between its words, and makes names look alike."""
_IMAGE_NAME = re.compile(rf".+{_SUFFIX}\Z", re.IGNORECASE | re.DOTALL)
_MAX_OLD = 256
"""Printed paths of files that the block did not change, and which may not be there, that are looked
at; each takes a system call."""
_MAX_ONLY_SAVED = 4
"""Images of a block that come back although it neither printed their paths nor showed them: the
ones that it saved last."""
_MAX_NOTES = 8
"""Refused images that are told one by one."""


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


class FoundPaths(NamedTuple):
    """Files that may be images, and where in the text each belongs."""

    paths: list[str]
    """Real paths, in the order in which they were produced, each once."""
    places: list[tuple[int, int, str]]
    """(start, end, path): the text between start and end, if any, gives way to the image."""
    repairs: list[str]
    only_saved: frozenset[str] = frozenset()
    """The paths of `places` that were neither printed nor shown."""
    left_out: int = 0
    """Further files that were only saved."""


def tidy_error(text: str, config: SessionConfig) -> str:
    """Return text without paths of the host."""
    if config.base is not None:
        for real, shown in zip(config.folders, MOUNTED, strict=True):
            text = text.replace(real, shown)
        text = text.replace(config.base, "/sandbox")
    # Functions of ours stand between the program and its libraries, so they are in its tracebacks.
    text = text.replace(_PACKAGE, "/python/swift_thyme/")
    for prefix in sorted({sys.prefix, sys.base_prefix, sys.exec_prefix}, key=len, reverse=True):
        if len(prefix) > 4:
            text = text.replace(prefix, "/python")
    return text


class Hints(NamedTuple):
    """What a block's process said about its images; untrusted, so these are hints only."""

    saved: tuple[SavedFile, ...]
    """Each image that was saved or shown, with its place in the text."""
    aliases: dict[str, str]
    """Path that the code names -> path at which the file was saved."""


def hints_from(report: BlockReport, output: CappedOutput) -> Hints:
    """Return the hints of a report, with byte offsets of the output made places in the text."""
    saved = [replace(item, place=output.text_offset(item.place)) for item in report.saved]
    return Hints(tuple(saved), report.aliases)


def changed_limit(settings: SandboxSettings) -> int:
    """Return how many of the files are looked at that a block made or changed."""
    return 4 * settings.images + 64


def find_paths(
    text: str,
    hints: Hints,
    changed: list[str],
    images: Sequence[ImageInfo],
    config: SessionConfig,
) -> FoundPaths:
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
    shown = dict.fromkeys(
        path for path in (_shown(path, config) for path in changed) if path not in inputs
    )
    by_name: dict[str, str] = {}
    for path in shown:
        by_name.setdefault(os.path.basename(path), path)
    aliases = hints.aliases
    places: list[tuple[int, int, str]] = []
    repairs: list[str] = []
    seen: set[str] = set()
    old = 0
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
                old += path not in shown and path not in inputs
                if old <= _MAX_OLD or path in shown or path in inputs:
                    places.append((start, end, path))
        else:
            for word in _paths_in(line):
                path = aliases.get(word, word)
                path = os.path.normpath(os.path.join(OUTPUT_FOLDER, path))
                if path in shown and path not in seen:
                    seen.add(path)
                    places.append((end, end, path))
        start = end
    only_saved: list[str] = []
    for item in hints.saved:
        path = item.path
        if path in shown and path not in seen:
            seen.add(path)
            if not item.shown:
                only_saved.append(path)
            place = min(item.place, len(text))
            places.append((place, place, path))
    for path in shown:
        if path not in seen and _IMAGE_NAME.match(path):
            seen.add(path)
            only_saved.append(path)
            places.append((len(text), len(text), path))
    asked_for = sum(path in shown or path in inputs for *_, path in places) - len(only_saved)
    most = max(0, min(_MAX_ONLY_SAVED, config.settings.images - asked_for))
    kept = frozenset(only_saved[max(0, len(only_saved) - most) :])
    left_out = set(only_saved) - kept
    # What was saved before a line was printed comes before the picture that this line names.
    places = sorted((p for p in places if p[2] not in left_out), key=lambda place: place[:2])
    real = [_hidden(path, images, config) for _, _, path in places]
    return FoundPaths(real, places, repairs, kept, len(left_out))


def _paths_in(line: str) -> list[str]:
    """Return the words that look like image paths, in time linear in the line's length."""
    found = []
    for match in _WORD.finditer(line):
        ends = [suffix.end() for suffix in _SUFFIX_IN_WORD.finditer(match.group(0))]
        if ends:
            found.append(match.group(0)[: ends[-1]])
    return found


def _allowed(path: str, inputs: set[str]) -> bool:
    return path in inputs or any(path.startswith(f"{folder}/") for folder in MOUNTED)


def _shown(path: str, config: SessionConfig) -> str:
    """Return the path as the code knows it."""
    for real, shown in zip(config.folders, MOUNTED, strict=True):
        if path.startswith(f"{real}/"):
            return shown + path[len(real) :]
    return path


def _hidden(path: str, images: Sequence[ImageInfo], config: SessionConfig) -> str:
    """Return the path as the session's own processes have to open it."""
    for image in images:
        if image.path == path:
            return image.real
    for real, shown in zip(config.folders, MOUNTED, strict=True):
        if path.startswith(f"{shown}/"):
            return real + path[len(shown) :]
    return path


def shown_name(path: str) -> str:
    """Return the name of a file as it is told: without its folder, and visible on one line."""
    name = visible(clean_text(os.path.basename(path), MAX_NAME_CHARS))
    return _UNSEEN_IN_NAMES.sub("\ufffd", name)


def assemble(
    text: str,
    found: ImagesFound,
    repairs: Sequence[str],
    status: ExecutionStatus,
    error: str | None,
) -> ExecutionResult:
    """Return a block's result, without its duration.

    Args:
        text: What it printed.
        found: What the encoder found.
        repairs: The repairs that the block's process reports; names that are none are left out.
        status: How the block ended.
        error: The error of its process.
    """
    names = [*repairs, *found.repairs]
    parts: list[str | ReturnedImage] = []
    images: list[ReturnedImage] = []
    notes: list[str] = []
    position = 0
    for image in found.images:
        start = max(image.start, position)
        if image.data is not None:
            if start > position:
                parts.append(text[position:start])
                position = start
            size = (image.width, image.height)
            images.append(ReturnedImage(image.data, *size, image.name, image.printed))
            parts.append(images[-1])
            names += image.repairs
            position = max(position, image.end)
        elif image.refused is not None:
            note = f"image {image.name} is not returned: {image.refused}"
            notes.append(note)
            if len(notes) <= _MAX_NOTES:
                parts.append(text[position : max(image.end, position)])
                parts.append(f"[{note}]\n")
                position = max(position, image.end)
    if position < len(text):
        parts.append(text[position:])
    if len(notes) > _MAX_NOTES:
        parts.append(f"\n[{len(notes) - _MAX_NOTES} more images are not returned]\n")
    if found.left_out:
        parts.append(f"\n{only_saved_note(found.left_out)}\n")
    if notes and not images and status is ExecutionStatus.OK:
        status, error = ExecutionStatus.ERROR, "; ".join(notes[:3])
        told = {f"[{note}]\n" for note in notes}
        parts = [part for part in parts if part not in told]
    error = None if error is None else clean_text(error, MAX_REASON_CHARS)
    return ExecutionResult(
        status,
        text,
        error,
        tuple(images),
        tuple(name for name in dict.fromkeys(names) if name in REPAIR_NAMES),
        parts=tuple(part for part in parts if part != ""),
    )
