"""Figures of matplotlib: shown ones are saved and returned, each picture once.

A window closes its figure when it goes, and so does `show` here: what is drawn next is a new
figure. Saving right after it still means the one that was shown, as it does without a display. A
figure that is saved and shown without a change in between is one picture, under the name that the
program gave it. A figure on which nothing was drawn is never shown.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

__all__ = ["PictureNotes", "install"]


class PictureNotes(Protocol):
    """Where it is noted what a block saved and showed."""

    block: int
    """Number of the block."""

    def saved(self, path: str) -> None:
        """Note an image file."""

    def withdrawn(self, path: str, instead: str) -> None:
        """Remove a file that was shown: the picture is in another one."""

    def was_shown(self, path: str) -> None:
        """Note that a file that was saved is one that the program showed, too."""

    def figure_path(self, stem: str) -> str:
        """Return a new file name for a picture that is shown."""


class _Returned(NamedTuple):
    """The last file of a figure."""

    block: int
    path: str
    was_shown: bool


class _Figures:
    def __init__(self, notes: PictureNotes, savefig: Callable[..., Any]) -> None:
        self._notes = notes
        self._savefig = savefig
        self._returned: weakref.WeakKeyDictionary[Any, _Returned] = weakref.WeakKeyDictionary()
        self._last_shown: Any = None

    def save(self, figure: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Save a figure; where nothing was drawn on it, the one that was shown last."""
        if _is_blank(figure) and self._last_shown is not None:
            figure = self._last_shown
        earlier = self._unchanged(figure)
        was_stale = figure.stale
        result = self._savefig(figure, target, *args, **kwargs)
        path = _image_path(target, kwargs.get("format"))
        if path is not None:
            self._note(figure, path, was_shown=False)
            if earlier is not None and earlier.was_shown:
                self._notes.withdrawn(earlier.path, path)
        elif not was_stale:
            figure.stale = False  # drawing it for another purpose is no change
        return result

    def show(self, figure: Any) -> None:
        """Return a figure, if something was drawn that the block has not returned yet."""
        if _is_blank(figure):
            return
        self._last_shown = figure
        earlier = self._unchanged(figure)
        if earlier is not None:
            self._notes.was_shown(earlier.path)
        else:
            path = self._notes.figure_path("figure")
            self._savefig(figure, path)
            self._note(figure, path, was_shown=True)

    def _unchanged(self, figure: Any) -> _Returned | None:
        """Return under which name the block returned a figure as it is now."""
        returned = self._returned.get(figure)
        is_same = returned is not None and returned.block == self._notes.block and not figure.stale
        return returned if is_same else None

    def _note(self, figure: Any, path: str, was_shown: bool) -> None:
        self._notes.saved(path)
        figure.stale = False  # whatever is drawn from now on makes it true again
        self._returned[figure] = _Returned(self._notes.block, path, was_shown)


def _is_blank(figure: Any) -> bool:
    return len(figure.get_children()) <= 1  # its background


def _image_path(target: Any, kind: Any) -> str | None:
    """Return where a figure was saved; None where that is no image file."""
    if not isinstance(target, (str, os.PathLike)):
        return None
    path = os.fspath(target)
    stem, suffix = os.path.splitext(path)
    if suffix[1:].lower() in _VECTOR_FORMATS or str(kind).lower() in _VECTOR_FORMATS:
        return None
    return path if suffix else f"{stem}.{kind or 'png'}"


_VECTOR_FORMATS = ("pdf", "pgf", "svg", "svgz", "ps", "eps")


def install(pyplot: Any, notes: PictureNotes, save_target: Callable[[Any], Any]) -> None:
    """Wrap the functions that save and show figures.

    Args:
        pyplot: The module.
        notes: Where pictures are noted.
        save_target: Returns where to save what a program wants to save at a path.
    """
    from matplotlib.figure import Figure

    figures = _Figures(notes, Figure.savefig)
    switch_backend = pyplot.switch_backend

    @functools.wraps(Figure.savefig)
    def save(self: Any, fname: Any, *args: Any, **kwargs: Any) -> Any:
        return figures.save(self, save_target(fname), *args, **kwargs)

    def show(*args: Any, **kwargs: Any) -> None:
        numbers = pyplot.get_fignums()
        if numbers:
            current = pyplot.gcf()
            for number in numbers:
                figures.show(pyplot.figure(number))
            figures.show(current)  # the one that is saved from now on
            pyplot.close("all")

    def show_one(self: Any, warn: bool = True) -> None:
        figures.show(self)

    @functools.wraps(switch_backend)
    def switch(newbackend: str) -> None:
        try:
            switch_backend(newbackend)
        except ImportError:
            # One with windows, for which there is no display; showing works without.
            with contextlib.suppress(ImportError):
                switch_backend("agg")

    Figure.savefig = save  # type: ignore[method-assign]
    Figure.show = show_one  # type: ignore[method-assign]
    pyplot.show = show
    pyplot.switch_backend = switch
