"""What the tiny model can see of freshly drawn pictures, made in bulk by worker processes.

Part of stage 0. Free of torch, so that a worker starts quickly.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from swift_thyme.testbed.task import (
    GRID,
    VIEW_SIZE,
    choose_window,
    make_picture,
    shows_plate,
)

__all__ = ["Views", "draw_views", "ViewWorkers", "CHUNK"]

CHUNK = 128
"""Pictures that a worker sends at a time."""


class Views(NamedTuple):
    """Some pictures as the model sees them, and what is true; arrays of equal first length."""

    overview: npt.NDArray[np.uint8]
    """Shape (N, VIEW_SIZE, VIEW_SIZE, 3): the whole picture, shrunk."""
    crop: npt.NDArray[np.uint8]
    """Shape (N, VIEW_SIZE, VIEW_SIZE, 3): a window that shows the plate, enlarged."""
    digits: npt.NDArray[np.int64]
    """Shape (N, 2)."""
    corner: npt.NDArray[np.int64]
    """Shape (N, 2): left and top of a window near the plate, in units of GRID."""


def draw_views(seed: Sequence[int], count: int, spread_px: float) -> Views:
    """Draw pictures, and shrink or crop them as the model will see them.

    Args:
        seed: Seed of everything that varies.
        count: Number of pictures.
        spread_px: Deviation of the windows in ``corner`` (pixels), see ``choose_window``.
    """
    rng = np.random.default_rng(list(seed))
    overview = np.empty((count, VIEW_SIZE, VIEW_SIZE, 3), dtype=np.uint8)
    crop = np.empty_like(overview)
    digits = np.empty((count, 2), dtype=np.int64)
    corner = np.empty((count, 2), dtype=np.int64)
    for index in range(count):
        picture = make_picture(rng)
        image = picture.image()
        # ms-swift and transformers both shrink bicubically; the second filter is for robustness.
        how = Image.Resampling.BICUBIC if rng.random() < 0.75 else Image.Resampling.BILINEAR
        overview[index] = np.asarray(image.resize((VIEW_SIZE, VIEW_SIZE), how))
        window = choose_window(picture.plate, rng, 16.0)
        while not shows_plate(window, picture.plate):
            window = choose_window(picture.plate, rng, 16.0)
        crop[index] = np.asarray(image.crop(window).resize((VIEW_SIZE, VIEW_SIZE)))
        digits[index] = [int(digit) for digit in picture.number]
        named = choose_window(picture.plate, rng, spread_px)
        corner[index] = (named.left // GRID, named.top // GRID)
    return Views(overview, crop, digits, corner)


def _work(seed: Sequence[int], spread_px: float, results: Any) -> None:
    step = 0
    while True:
        results.put(draw_views((*seed, step), CHUNK, spread_px))
        step += 1


class ViewWorkers:
    """Processes that draw views without end; close it, or use it in a ``with`` statement.

    Each worker's pictures are a function of the seed; in which order they arrive is not.
    """

    def __init__(self, count: int, seed: int, spread_px: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._results: Any = context.Queue(maxsize=2 * count)
        self._processes = [
            context.Process(
                target=_work, args=((seed, 1000, index), spread_px, self._results), daemon=True
            )
            for index in range(count)
        ]
        for process in self._processes:
            process.start()

    def wait(self, timeout_s: float) -> Views:
        """Return the next chunk.

        Raises:
            queue.Empty: If none came in time.
        """
        views: Views = self._results.get(timeout=timeout_s)
        return views

    def ready(self) -> Iterator[Views]:
        """Yield at most one waiting chunk for each worker, without waiting for more."""
        for _ in self._processes:
            try:
                yield self._results.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        """End the workers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._results.close()

    def __enter__(self) -> ViewWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
