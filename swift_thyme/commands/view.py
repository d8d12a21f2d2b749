"""The command ``thyme view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swift_thyme.commands.messages import say
from swift_thyme.core.errors import DataError

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
    report = build_page(
        loaded,
        output,
        title=title or paths[0].resolve().name,
        max_trajectories=max_trajectories,
        max_image_side=max_image_side,
    )
    size_mib = report.bytes / 2**20
    say(f"{output}: {report.shown:,} trajectories, {report.images:,} pictures, {size_mib:.1f} MiB")
    notes = []
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
