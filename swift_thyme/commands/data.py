"""The commands ``thyme data sft`` and ``thyme data rl``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from swift_thyme.commands.messages import say
from swift_thyme.commands.model_options import finite
from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.data.conversion_report import Report, render_report
from swift_thyme.data.hub import fetch_dataset
from swift_thyme.data.job import JobProgress, run_job
from swift_thyme.data.job_options import JobOptions

__all__ = ["data_app"]

PLAIN_INTERVAL_S = 30.0
"""Seconds between two lines of progress where the output is no terminal."""

data_app = typer.Typer(
    help="Prepare data: published layouts in, rows and pictures for ms-swift out.",
    no_args_is_help=True,
)

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(help="Parquet, JSONL or TSV files, folders of them, `datasets` folders."),
]
Hub = Annotated[
    list[str] | None,
    typer.Option(
        "--hub",
        help="A data set of a hub: hf::NAME (Hugging Face) or ms::NAME (ModelScope), @REVISION "
        "may follow. May be given several times.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
ImageRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that relative image paths start from; default: that of the file."),
]
MaxMegapixels = Annotated[float, typer.Option(help="Larger images are rejected.", callback=finite)]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes; default: the cores of this process.")
]
RowsPerShard = Annotated[int, typer.Option(help="Rows after which finished work is recorded.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Forget what another job left in the folder.")
]

Strict = Annotated[
    bool,
    typer.Option("--strict", help="Stop at a row that cannot be used; do not reject it."),
]


@contextmanager
def _progress(console: Console) -> Iterator[JobProgress]:
    """Show rows, pictures per second and the remaining time."""
    if not console.is_terminal:
        yield _plain_progress(console)
        return
    bar = Progress(
        TextColumn("rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=120,
    )
    with bar:
        task = bar.add_task("rows", total=None, rate="")
        started = time.monotonic()
        pictures = 0
        first: int | None = None

        def show(done: int, total: int, images: int) -> None:
            nonlocal pictures, first
            first = done if first is None else first
            pictures += images
            seconds = max(time.monotonic() - started, 1e-3)
            rate = f"{(done - first) / seconds:.0f} rows/s, {pictures / seconds:.0f} images/s"
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


def _plain_progress(console: Console) -> JobProgress:
    started = time.monotonic()
    last = started
    pictures = 0
    first: int | None = None

    def show(done: int, total: int, images: int) -> None:
        nonlocal last, pictures, first
        first = done if first is None else first
        pictures += images
        now = time.monotonic()
        if now - last < PLAIN_INTERVAL_S or done == first:
            return
        last = now
        rate = (done - first) / (now - started)
        say(
            f"{done}/{total} rows, {rate:.0f} rows/s, {pictures / (now - started):.0f} images/s, "
            f"{(total - done) / rate:.0f} s left",
            console=console,
        )

    return show


def _run(options: JobOptions, overwrite: bool) -> None:
    console = Console(stderr=True, soft_wrap=True)
    with _progress(console) as progress:
        report = run_job(options, progress, overwrite=overwrite)
    render_report(report, Console(soft_wrap=True, highlight=False))
    say(f"written to {options.out}: {', '.join(_outputs(Path(options.out)))}")
    if not report.kept:
        # A script that goes on would train on nothing.
        raise DataError(_nothing_kept(report, options))


def _nothing_kept(report: Report, options: JobOptions) -> str:
    if not report.rows:
        return f"no row was found in {', '.join(options.inputs)}"
    listing = Path(options.out) / "rejected.jsonl"
    reason, count = max(report.reasons.items(), key=lambda item: item[1])
    return (
        f"none of {report.rows} rows can be used: {count} times {reason}; "
        f"{listing} has the reason of each"
    )


def _inputs(paths: list[Path] | None, names: list[str] | None) -> tuple[str, ...]:
    """Return the absolute paths of what a job reads; fetches what lies at a hub.

    Raises:
        SettingsError: Nothing was given, or a name cannot be used.
        DataError: A data set cannot be fetched.
    """
    if not paths and not names:
        raise SettingsError("give files or folders to read, or --hub NAME")
    fetched = [Path(fetch_dataset(name)) for name in names or []]
    return tuple(os.path.abspath(path) for path in [*(paths or []), *fetched])


def _outputs(out: Path) -> list[str]:
    return sorted(path.name for path in (*out.glob("*.jsonl"), *out.glob("report.*")))


def _absolute(path: Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)


@data_app.command("sft")
def sft(
    out: Out,
    inputs: Inputs = None,
    hub: Hub = None,
    execute: Annotated[
        bool,
        typer.Option("--execute", help="Run the code in the sandbox; drop rows where it fails."),
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option(help="Limit of one code block with --execute, seconds.")
    ] = None,
    image_root: ImageRoot = None,
    max_megapixels: MaxMegapixels = 100.0,
    workers: Workers = None,
    rows_per_shard: RowsPerShard = 64,
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Turn demonstrations (image, question, response) into rows for `swift sft`.

    Writes SPLIT.images.jsonl and SPLIT.text.jsonl, pictures under images/, rejected.jsonl,
    report.json and report.txt. The same command continues a job that was interrupted.
    """
    _run(
        JobOptions(
            kind="sft",
            inputs=_inputs(inputs, hub),
            out=os.path.abspath(out),
            image_root=_absolute(image_root),
            max_megapixels=max_megapixels,
            execute=execute,
            timeout_s=timeout_s,
            workers=workers or len(os.sched_getaffinity(0)),
            rows_per_shard=rows_per_shard,
            strict=strict,
        ),
        overwrite,
    )


@data_app.command("rl")
def rl(
    out: Out,
    inputs: Inputs = None,
    hub: Hub = None,
    system: Annotated[
        Path | None,
        typer.Option(
            help="File whose text becomes the system message of each row, such as "
            "scripts/prompt.txt; default: none, it is given as --system to the job."
        ),
    ] = None,
    shuffle: Annotated[
        bool,
        typer.Option(
            "--shuffle/--no-shuffle",
            help="Put the right option under each letter equally often; rows with a "
            "cycle_category keep their order.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of the order of options.")] = 0,
    image_root: ImageRoot = None,
    max_megapixels: MaxMegapixels = 100.0,
    workers: Workers = None,
    rows_per_shard: RowsPerShard = 64,
    overwrite: Overwrite = False,
    strict: Strict = False,
) -> None:
    """Turn question, answer and image into rows for `swift rlhf`.

    Reads JSONL, parquet and VLMEvalKit TSV files (options A, B, ... are added to the question).
    Writes SPLIT.rl.jsonl, pictures under images/, rejected.jsonl, report.json and report.txt.
    """
    prompt = None
    if system is not None:
        try:
            prompt = system.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--system") from error
    _run(
        JobOptions(
            kind="rl",
            inputs=_inputs(inputs, hub),
            out=os.path.abspath(out),
            image_root=_absolute(image_root),
            max_megapixels=max_megapixels,
            system_prompt=prompt,
            shuffle=shuffle,
            seed=seed,
            workers=workers or len(os.sched_getaffinity(0)),
            rows_per_shard=rows_per_shard,
            strict=strict,
        ),
        overwrite,
    )
