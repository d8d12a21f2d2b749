"""What the models of the proof see of freshly drawn scenes, made in bulk by worker processes."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from prove.pictures import (
    CELLS,
    COLOURS,
    SIZES,
    TURNS,
    VIEW_SIZE,
    WINDOW,
    Plate,
    Window,
    choose_window,
    draw_scene,
)

__all__ = ["CHUNK", "Views", "ViewWorkers", "draw_views", "shows_plate"]

CHUNK = 64
"""Scenes that a worker sends at a time."""
_TURNED, _PALE = 0.3, 0.2
_COLOURS = list(COLOURS)
_PLATES = ("yellow", "blue")


class Views(NamedTuple):
    """Some scenes as a model sees them, and what is true; arrays of equal first length."""

    overview: npt.NDArray[np.uint8]
    """Shape (N, VIEW_SIZE, VIEW_SIZE, 3): the whole picture, shrunk."""
    crop: npt.NDArray[np.uint8]
    """Shape (N, VIEW_SIZE, VIEW_SIZE, 3): a window with one plate as it lies, enlarged."""
    upright: npt.NDArray[np.uint8]
    """Shape (N, VIEW_SIZE, VIEW_SIZE, 3): the same, turned upright."""
    digits: npt.NDArray[np.int64]
    """Shape (N, 2): of the plate in the window."""
    turn: npt.NDArray[np.int64]
    """Shape (N,): quarter turns of that plate."""
    plate: npt.NDArray[np.int64]
    """Shape (N,): 0 where that plate is the yellow one, 1 where it is the blue one."""
    corner: npt.NDArray[np.int64]
    """Shape (N, 4): left and top of the best window of the yellow plate, then of the blue one."""
    disc: npt.NDArray[np.int64]
    """Shape (N,): place of the disc's colour in COLOURS."""
    pale: npt.NDArray[np.int64]
    """Shape (N,): 1 where the picture is pale."""


def shows_plate(window: Window, plate: Plate) -> bool:
    """Tell whether the whole plate lies inside the window."""
    half = (1.0, 0.63) if plate.turn in (0, 180) else (0.63, 1.0)
    return (
        window.left <= plate.x - half[0]
        and window.right >= plate.x + half[0]
        and window.top <= plate.y - half[1]
        and window.bottom >= plate.y + half[1]
    )


def _one(rng: np.random.Generator) -> tuple[Any, ...]:
    turned, pale = bool(rng.random() < _TURNED), bool(rng.random() < _PALE)
    size = int(rng.choice(SIZES, p=(0.45, 0.4, 0.1, 0.05)))
    scene = draw_scene(rng, turned=turned, pale=pale, size=size)
    how = Image.Resampling.BICUBIC if rng.random() < 0.75 else Image.Resampling.BILINEAR
    view = (VIEW_SIZE, VIEW_SIZE)
    overview = np.asarray(scene.image.resize(view, how))
    which = int(rng.integers(2))
    plate = scene.plates[_PLATES[which]]
    window = choose_window(plate, rng, 0.9)
    while not shows_plate(window, plate):
        window = choose_window(plate, rng, 0.9)
    cell = scene.image.width // CELLS
    crop = scene.image.crop(tuple(v * cell for v in window)).resize(view)
    if pale:
        crop = ImageOps.autocontrast(crop)
    upright = crop.rotate(360 - plate.turn) if plate.turn else crop
    best = [choose_window(scene.plates[name], rng, 0.0) for name in _PLATES]
    return (
        overview,
        np.asarray(crop),
        np.asarray(upright),
        [int(digit) for digit in plate.number],
        TURNS.index(plate.turn),
        which,
        [best[0].left, best[0].top, best[1].left, best[1].top],
        _COLOURS.index(scene.disc),
        int(pale),
    )


def draw_views(seed: tuple[int, ...], count: int) -> Views:
    """Draw scenes, and shrink or crop them as a model will see them."""
    rng = np.random.default_rng(list(seed))
    columns = zip(*(_one(rng) for _ in range(count)), strict=True)
    return Views(*(np.array(column) for column in columns))


def _work(seed: tuple[int, ...], results: Any) -> None:
    step = 0
    while True:
        results.put(draw_views((*seed, step), CHUNK))
        step += 1


class ViewWorkers:
    """Processes that draw views without end; use it in a ``with`` statement."""

    def __init__(self, count: int, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._results: Any = context.Queue(maxsize=4 * count)
        self._processes = [
            context.Process(target=_work, args=((seed, 1000, index), self._results), daemon=True)
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
        """Yield the chunks that wait, at most a few, without waiting for more."""
        for _ in range(4):
            try:
                yield self._results.get_nowait()
            except queue.Empty:
                return

    def __enter__(self) -> ViewWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._results.close()


CORNERS = CELLS - WINDOW + 1
"""Values that a window's left or top can have."""
