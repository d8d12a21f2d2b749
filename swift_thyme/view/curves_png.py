"""Draws the curves of a run as one PNG, with matplotlib."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.view.curves import Panel, panels_of
from swift_thyme.view.run_log import RunLog

__all__ = ["draw_curves"]

COLUMNS = 2
_COLOURS = (
    *("#23694a", "#c2571a", "#2b62a8", "#8a3f9e", "#a8321f"),
    *("#0f7f86", "#7d5306", "#5b635d", "#b03a75", "#4d7a12"),
)


def draw_curves(log: RunLog, output: Path) -> None:
    """Write the picture.

    Args:
        log: The run.
        output: The PNG file; replaced once the new one is complete.

    Raises:
        SettingsError: matplotlib is not installed.
        DataError: Nothing was logged, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise SettingsError("--plot needs pip install 'swift_thyme[sandbox]'") from error
    panels = panels_of(log)
    if not panels:
        raise DataError(f"{log.lineage.folders[-1]}: no training step was logged yet")
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    # The user's own settings of matplotlib may ask for LaTeX, and fonts lack glyphs of some names.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.simplefilter("ignore")
        figure = _figure(log, panels)
        try:
            with open(partial, "wb") as file:
                # This canvas draws into memory: it needs no display.
                FigureCanvasAgg(figure).print_png(file)
            os.replace(partial, output)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{output} cannot be written: {error}") from error


def _figure(log: RunLog, panels: Sequence[Panel]) -> Any:
    from matplotlib.figure import Figure

    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(6.2 * COLUMNS, 2.5 * rows + 0.5), layout="constrained")
    heading = figure.suptitle(log.lineage.folders[-1].resolve().name, fontsize=11)
    heading.set_parse_math(False)
    for place, panel in enumerate(panels, 1):
        _draw(figure.add_subplot(rows, COLUMNS, place), panel, log.resumed_at)
    return figure


def _draw(axes: Any, panel: Panel, resumed_at: tuple[int, ...]) -> None:
    colours: dict[str, str] = {}
    lines, labels = [], []
    for series in panel.series:
        colour = colours.setdefault(series.name, _COLOURS[len(colours) % len(_COLOURS)])
        # A single point has no line, and evaluations are few.
        marker = "o" if series.held_out or len(series.points) == 1 else ""
        (line,) = axes.plot(
            *zip(*series.points, strict=True),
            color=colour, marker=marker, markersize=4, linewidth=1.3,
            linestyle="--" if series.held_out else "-",
        )  # fmt: skip
        lines.append(line)
        labels.append(f"{series.name}, held out" if series.held_out else series.name)
    for step in resumed_at:
        axes.axvline(step, color="#9b9b9b", linewidth=0.8, linestyle=":")
    axes.set_title(f"{panel.title} ({panel.unit})" if panel.unit else panel.title, fontsize=9)
    axes.tick_params(labelsize=7)
    if panel.unit == "share":
        axes.set_ylim(-0.04, 1.04)
    axes.grid(alpha=0.25)
    # Handles are given, so that a name which starts with "_" is not left out.
    legend = axes.legend(lines, [label.lstrip("_") or "_" for label in labels], fontsize=7)
    legend.get_frame().set_alpha(0.6)
    for text in legend.get_texts():
        # A "$" in a name starts no formula.
        text.set_parse_math(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
