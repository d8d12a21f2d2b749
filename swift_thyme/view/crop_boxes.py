"""Where a returned picture lies in the prompt's picture, where that is certain.

A box is shown only if the program that ran says it (:mod:`swift_thyme.view.crop_code`) and the
pixels agree: the part of the original inside the box looks like the returned picture, and parts
beside it, larger and smaller ones do not. A crop of an even surface, or one that was turned or
recoloured, has no box.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.pictures import decoding, flat, open_image, upright
from swift_thyme.core.segment import SegmentKind
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryRecord
from swift_thyme.view.crop_code import Box, boxes_in

__all__ = ["FoundBox", "Trajectory", "find_boxes"]

SIDE = 32
"""Pictures are compared at this many pixels a side."""
MOST_DIFFERENT = 6.0
"""Mean difference of channels, of 255, up to which two pictures show the same."""
WHOLE = 0.95
"""A box of so much of the picture says nothing."""


class FoundBox(NamedTuple):
    """A returned picture that is a part of a picture of the prompt."""

    prompt_image: int
    """Index among the prompt's pictures."""
    returned: int
    """Number of the returned picture in its trajectory, from 1."""
    box: Box


class Trajectory(NamedTuple):
    """A trajectory, its programs and where its pictures are."""

    record: TrajectoryRecord
    folder: Path
    programs: Sequence[str]
    """Of its code segments, in order."""


class _Task(NamedTuple):
    """A returned picture to look for in an original."""

    trajectory: int
    prompt_image: int
    returned: int
    file: Path
    boxes: tuple[Box, ...]


def find_boxes(trajectories: Sequence[Trajectory]) -> list[list[FoundBox]]:
    """Return the boxes that are certain, for each trajectory."""
    tasks: dict[Path, list[_Task]] = {}
    for number, trajectory in enumerate(trajectories):
        for original, task in _tasks(number, trajectory):
            tasks.setdefault(original, []).append(task)
    found: list[list[FoundBox]] = [[] for _ in trajectories]
    # Pillow decodes without holding the interpreter lock; each original is decoded once.
    with ThreadPoolExecutor() as pool:
        for pairs in pool.map(lambda item: _search(*item), tasks.items()):
            for task, box in pairs:
                found[task.trajectory].append(FoundBox(task.prompt_image, task.returned, box))
    return [_certain(boxes) for boxes in found]


def _tasks(number: int, trajectory: Trajectory) -> list[tuple[Path, _Task]]:
    record, folder = trajectory.record, trajectory.folder
    tasks = []
    programs = iter(trajectory.programs)
    read: list[str] = []
    returned = 0
    for segment in record.segments:
        if segment.kind is SegmentKind.CODE:
            read.append(next(programs))
        for image in segment.images:
            returned += 1
            for index, original in enumerate(record.images):
                boxes = _candidates(read, original)
                if boxes:
                    task = _Task(number, index, returned, folder / image.file, boxes)
                    tasks.append((folder / original.file, task))
    return tasks


def _candidates(programs: Sequence[str], original: ImageRef) -> tuple[Box, ...]:
    size = (original.width, original.height)
    return tuple(
        box
        for box in boxes_in(programs, size)
        if (box.right - box.left) * (box.bottom - box.top) < WHOLE * size[0] * size[1]
    )


def _search(original: Path, tasks: Sequence[_Task]) -> list[tuple[_Task, Box]]:
    try:
        picture = _opened(original)
    except (OSError, DataError):
        return []
    found = []
    for task in tasks:
        try:
            returned = _small(_opened(task.file))
        except (OSError, DataError):
            continue
        found += [(task, box) for box in task.boxes if _shows(picture, box, returned)]
    return found


def _certain(boxes: Sequence[FoundBox]) -> list[FoundBox]:
    """Leave out a returned picture that lies at several places."""
    places: dict[int, set[FoundBox]] = {}
    for box in boxes:
        places.setdefault(box.returned, set()).add(box)
    return [next(iter(some)) for _, some in sorted(places.items()) if len(some) == 1]


def _opened(file: Path) -> Image.Image:
    with open_image(file.read_bytes(), str(file)) as image, decoding(str(file)):
        return flat(upright(image)).copy()


def _small(picture: Image.Image, box: Box | None = None) -> np.ndarray:
    # Large parts are reduced by whole numbers first, which is much faster.
    size, method = (SIDE, SIDE), Image.Resampling.BILINEAR
    small = picture.resize(size, method, box=box, reducing_gap=2.0)
    return np.asarray(small, dtype=np.float32)


def _shows(picture: Image.Image, box: Box, returned: np.ndarray) -> bool:
    """Tell whether a box of the original is the returned picture, and boxes around it are not."""

    def difference(part: Box) -> float:
        return float(np.abs(_small(picture, part) - returned).mean())

    if box.right > picture.width or box.bottom > picture.height:
        return False
    here = difference(box)
    if here > MOST_DIFFERENT:
        return False
    around = [difference(part) for part in _neighbours(box, picture.size, 6)]
    if not around or min(around) <= max(3 * here, here + 1):
        return False
    # A box that is a little off, because a number was changed where it could not be followed.
    return here <= min(difference(part) for part in _neighbours(box, picture.size, SIDE))


def _neighbours(box: Box, size: tuple[int, int], part_of_side: int) -> list[Box]:
    """Return boxes that part beside, and larger and smaller by it, as far as the picture goes."""
    x, y = (box.right - box.left) / part_of_side, (box.bottom - box.top) / part_of_side
    moved = [(-x, 0, -x, 0), (x, 0, x, 0), (0, -y, 0, -y), (0, y, 0, y)]
    scaled = [(x, y, -x, -y), (-x, -y, x, y)]
    boxes = []
    for change in (*moved, *scaled):
        part = Box(*(edge + by for edge, by in zip(box, change, strict=True)))
        if part.left >= 0 and part.top >= 0 and part.right <= size[0] and part.bottom <= size[1]:
            boxes.append(part)
    return boxes
