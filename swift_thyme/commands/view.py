"""The command ``thyme view``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swift_thyme.commands.messages import say
from swift_thyme.core.errors import DataError

if TYPE_CHECKING:
    from swift_thyme.view.run_log import Lineage

__all__ = ["view_command"]

LARGE_PAGE_MIB = 256


def view_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="output folder of a training run, folder of thyme ask --save or thyme eval, "
            "or a trajectories*.jsonl or completions.jsonl file",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path(
        "trajectories.html"
    ),
    title: Annotated[
        str | None, typer.Option("--title", help="heading; default: name of the first path")
    ] = None,
    max_trajectories: Annotated[
        int,
        typer.Option("--max-trajectories", min=1, help="with more, evenly spaced ones are shown"),
    ] = 2000,
    max_image_side: Annotated[
        int,
        typer.Option(
            "--max-image-side", min=16, help="larger pictures are reduced to this, in pixels"
        ),
    ] = 640,
) -> None:
    """Write one HTML page that shows trajectories: text, code, output, pictures, rewards."""
    from swift_thyme.view.page import build_page
    from swift_thyme.view.sources import load

    if output.is_dir():
        raise DataError(f"--output {output}: is a folder; name a file")
    if output.resolve() in [path.resolve() for path in paths]:
        raise DataError(f"--output {output}: would replace what it shows")
    loaded = load(paths)
    curves, notes = _curves([item.lineage for item in loaded if item.lineage is not None])
    report = build_page(
        loaded,
        output,
        title=title or paths[0].resolve().name,
        max_trajectories=max_trajectories,
        max_image_side=max_image_side,
        curves=curves,
    )
    size_mib = report.bytes / 2**20
    say(f"{output}: {report.shown:,} trajectories, {report.images:,} pictures, {size_mib:.1f} MiB")
    if report.shown < report.found:
        notes.append(
            f"{report.found:,} were found, evenly spaced ones are shown; --max-trajectories "
            "changes that"
        )
    text_only = sum(item.text_only for item in loaded)
    if text_only:
        notes.append(
            f"{text_only:,} come from completions.jsonl: text only, without pictures, end reasons "
            "and token counts"
        )
    if report.missing_images:
        notes.append(f"{report.missing_images:,} pictures are missing or cannot be read")
    if size_mib > LARGE_PAGE_MIB:
        notes.append("a large page opens slowly; --max-trajectories and --max-image-side shrink it")
    for note in notes:
        say(f"note: {note}")


def _curves(lineages: Sequence[Lineage]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the curves of the runs, and sentences on those that cannot be had."""
    from swift_thyme.view.curves import as_json
    from swift_thyme.view.run_log import read_log

    curves, notes = [], []
    for lineage in dict.fromkeys(lineages):
        try:
            log = read_log(lineage)
        except DataError as error:
            # The trajectories are what was asked for.
            notes.append(f"no curves: {error}")
            continue
        if log.entries:
            curves.append(as_json(log, lineage.folders[-1].name))
    return curves, notes
