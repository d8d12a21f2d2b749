"""Trajectories on disk: what ``thyme ask --save``, ``thyme eval`` and a training run leave behind.

A folder of trajectories looks like this::

    FOLDER/trajectories.jsonl     one trajectory a line; more files named trajectories*.jsonl may
                                  stand beside it (one a process)
    FOLDER/images/3f2a….png       the images that the lines name, each once, named by their content

This module owns the format, the writer and the reader. It does not know how a trajectory comes
about or what is done with it. A file may end in the middle of a line, because its writer was
killed: the reader leaves that line out and the writer cuts it off before it goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.images import sniff
from swift_thyme.core.segment import Segment, SegmentKind

__all__ = [
    "FORMAT_VERSION",
    "ImageRef",
    "TrajectoryRecord",
    "TrajectoryWriter",
    "read_trajectories",
    "trajectory_files",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
FILE_NAME = "trajectories.jsonl"
IMAGE_FOLDER = "images"

_IMAGE_FILE = re.compile(r"images/[0-9a-f]{32}\.(?:png|jpg|webp|gif|bmp|tif|bin)")
_SUFFIXES = ("png", "jpg", "webp", "gif", "bmp", "tif")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a trajectory."""

    file: str
    """Path relative to the folder of the JSONL file: ``images/<32 hex digits>.<suffix>``."""
    width: int
    """Pixels; 0 where unknown."""
    height: int
    """Pixels; 0 where unknown."""
    name: str = ""
    """For a prompt image the path that generated code opens, for a returned one the base name of
    the file that the code wrote. For display only."""


@dataclass(frozen=True, slots=True)
class TrajectoryRecord:
    """One trajectory."""

    id: str
    """Unique within its file."""
    question: str
    """The question alone, without image tags and prompt boilerplate."""
    segments: tuple[Segment[ImageRef], ...]
    """The assistant's turn, in order."""
    run: str = ""
    """What this belongs to: a model, a run of an evaluation, a training job; for filters."""
    step: int | None = None
    """Training step, or number of the evaluation run; None where there is none."""
    system: str | None = None
    prompt: str = ""
    """The user's message as the model read it, ``<image>`` tags included; may be empty."""
    images: tuple[ImageRef, ...] = ()
    """The prompt's images."""
    answer: str | None = None
    """Text of the answer block; None where there is none."""
    reference: tuple[str, ...] = ()
    """Accepted answers; empty where unknown."""
    end_reason: str | None = None
    """A value of ``trajectory.EndReason``."""
    tool_used: bool = False
    """Whether a block ran without an error and its output entered the context."""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    """Scores by name; None is a score that could not be had, which is not 0."""
    statuses: tuple[str, ...] = ()
    """How each executed block ended, also of one whose observation did not enter the context."""
    repairs: tuple[str, ...] = ()
    turns: int = 0
    prompt_tokens: int | None = None
    """Length of the prompt in tokens, images expanded; None where unknown."""
    sampled_tokens: int | None = None
    """Tokens that the model sampled; None where unknown."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by name: ``total_s``, ``sandbox_s`` and what else was measured."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else the writer knows, as JSON values: row index, category, seed, …"""

    @property
    def completion(self) -> str:
        """The assistant's whole turn as text."""
        return "".join(segment.text for segment in self.segments)

    @property
    def all_images(self) -> tuple[ImageRef, ...]:
        """Images of the prompt, then those of the observations, in order."""
        returned = [image for segment in self.segments for image in segment.images]
        return (*self.images, *returned)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"format": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> TrajectoryRecord:
        """Return the record that :meth:`to_json` made; fields of a later version are ignored.

        Raises:
            DataError: The value is not such a record.
        """
        if not isinstance(value, dict):
            raise DataError("not a JSON object")
        if value.get("format") != FORMAT_VERSION:
            raise DataError(f"format {value.get('format')!r}, expected {FORMAT_VERSION}")
        known = {item.name for item in dataclasses.fields(cls)}
        fields = {name: item for name, item in value.items() if name in known}
        try:
            fields["segments"] = tuple(map(_segment, fields.pop("segments")))
            fields["images"] = tuple(map(_image_ref, fields.pop("images", ())))
            for name in ("reference", "statuses", "repairs"):
                fields[name] = tuple(map(str, fields.pop(name, ())))
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a trajectory: {error!r}") from error


def _image_ref(value: Any) -> ImageRef:
    ref = ImageRef(
        file=value["file"],
        width=int(value["width"]),
        height=int(value["height"]),
        name=str(value.get("name", "")),
    )
    # Whoever shows the file opens this path; it must not lead out of the folder.
    if not isinstance(ref.file, str) or not _IMAGE_FILE.fullmatch(ref.file):
        raise DataError(f"image file {ref.file!r} is not of the form images/<32 hex digits>.png")
    return ref


def _segment(value: Any) -> Segment[ImageRef]:
    return Segment(
        kind=SegmentKind(value["kind"]),
        text=str(value["text"]),
        images=tuple(map(_image_ref, value.get("images", ()))),
        tokens=value.get("tokens"),
        status=value.get("status"),
        repairs=tuple(map(str, value.get("repairs", ()))),
        duration_s=value.get("duration_s"),
    )


class TrajectoryWriter:
    """Appends trajectories to a folder; a context manager.

    Args:
        folder: The folder; made if missing.
        file_name: ``trajectories*.jsonl``; processes that write at the same time need a name each.

    Raises:
        DataError: The folder cannot be written to.
    """

    def __init__(self, folder: str | Path, file_name: str = FILE_NAME) -> None:
        self.folder = Path(folder)
        self.path = self.folder / file_name
        try:
            (self.folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(self.path, "a+b")
            _cut_torn_line(self._file)
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error}") from error

    def add_image(
        self, data: bytes, *, name: str = "", size: tuple[int, int] | None = None
    ) -> ImageRef:
        """Store an image, unless it is there already, and return the reference to it.

        Args:
            data: The encoded image.
            name: See :class:`ImageRef`.
            size: (width, height) in pixels; None reads the image's header.
        """
        digest = hashlib.sha256(data).hexdigest()[:32]
        file = f"{IMAGE_FOLDER}/{digest}.{_suffix(data)}"
        target = self.folder / file
        if not target.exists():
            # The name says what is in it, so nobody may ever see half of it under that name.
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            partial.write_bytes(data)
            os.replace(partial, target)
        width, height = size if size is not None else _size(data)
        return ImageRef(file=file, width=width, height=height, name=name)

    def add_segment(self, segment: Segment[ReturnedImage]) -> Segment[ImageRef]:
        """Store the images of a segment and return the segment that names them."""
        refs = tuple(
            self.add_image(image.data, name=image.name, size=(image.width, image.height))
            for image in segment.images
        )
        return segment.with_images(refs)

    def write(self, *records: TrajectoryRecord, durable: bool = False) -> None:
        """Append records.

        Args:
            records: What to append, in order.
            durable: Whether to return only once the lines are on the disk.
        """
        lines = [json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records]
        self._file.write("".join(lines).encode("utf-8", "replace"))
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cut_torn_line(file: IO[bytes]) -> None:
    """Remove what stands after the last line break."""
    end = file.seek(0, os.SEEK_END)
    position, tail = end, b""
    while position > 0 and b"\n" not in tail:
        step = min(position, 1 << 16)
        position -= step
        file.seek(position)
        tail = file.read(step)
    keep = position + tail.rfind(b"\n") + 1 if b"\n" in tail else 0
    if keep < end:
        logger.warning("%s: an unfinished last line is removed", file.name)
        file.truncate(keep)
    file.seek(0, os.SEEK_END)


def _suffix(data: bytes) -> str:
    kind = sniff(data)
    suffix = kind.suffix.removeprefix(".") if kind else ""
    return suffix if suffix in _SUFFIXES else "bin"


def _size(data: bytes) -> tuple[int, int]:
    from swift_thyme.core.pictures import header

    try:
        return header(data).size
    except DataError:
        return (0, 0)


def trajectory_files(path: str | Path) -> list[Path]:
    """Return the trajectory files at a path, sorted.

    Args:
        path: A JSONL file, or a folder that holds ``trajectories*.jsonl`` at any depth.

    Raises:
        DataError: There are none.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("trajectories*.jsonl"))
    if not files:
        raise DataError(f"{path}: no trajectories*.jsonl there")
    return files


def read_trajectories(file: str | Path) -> Iterator[TrajectoryRecord]:
    """Yield the trajectories of one file, in order; images lie relative to the file's folder.

    An unfinished last line is left out with a warning.

    Raises:
        DataError: The file cannot be read, or a line is not a trajectory; the message names it.
    """
    path = Path(file)
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    logger.warning("%s: an unfinished last line is left out", path)
                    return
                if not line.strip():
                    continue
                try:
                    yield TrajectoryRecord.from_json(json.loads(line))
                except (ValueError, DataError) as error:
                    raise DataError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
