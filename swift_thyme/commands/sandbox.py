"""The command `thyme sandbox`: run files as successive blocks of one session."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from swift_thyme.commands.model_options import finite
from swift_thyme.core.errors import DataError, ThymeError
from swift_thyme.core.execution import ExecutionResult, InputImage
from swift_thyme.core.images import sniff
from swift_thyme.core.observation import render_observation
from swift_thyme.sandbox import open_pool

__all__ = ["result_record", "sandbox_command"]


def result_record(result: ExecutionResult, block: str) -> dict[str, object]:
    """Return a block's result as JSON values; images are described, not included."""
    return {
        "block": block,
        "status": str(result.status),
        "stdout": result.stdout,
        "error": result.error,
        "images": [
            {
                "name": image.name,
                "width": image.width,
                "height": image.height,
                "bytes": len(image.data),
            }
            for image in result.images
        ],
        "repairs": list(result.repairs),
        "program": result.program,
        "duration_s": round(result.duration_s, 4),
        "observation": render_observation(result).text,
    }


def sandbox_command(
    files: Annotated[
        list[Path],
        typer.Argument(help="Python files, run in order; '-' reads one from standard input."),
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Image that the code may read, at its own absolute path."),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            "--timeout-s", help="Wall-clock limit of each file, seconds.", callback=finite
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per block.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print each program as it was run, and what was repaired in it."
        ),
    ] = False,
    save_images: Annotated[
        Path | None,
        typer.Option("--save-images", help="Folder to write the returned images to."),
    ] = None,
) -> None:
    """Run Python files as successive blocks of one sandbox session and print what each gave.

    Ends with status 1 when a block did not end well, 2 when the sandbox itself failed.
    """
    try:
        blocks = [(str(path), _program(path)) for path in files]
        inputs = [InputImage(str(path.absolute().resolve()), path) for path in image or ()]
        for item in inputs:
            if not Path(item.path).is_file():
                raise FileNotFoundError(f"no such image: {item.path}")
        good = _run(blocks, inputs, timeout_s, as_json, explain, save_images)
    except (ThymeError, OSError, ValueError) as error:
        typer.echo(f"thyme sandbox: {error}", err=True)
        raise typer.Exit(2) from error
    if not good:
        raise typer.Exit(1)


def _explanation(result: ExecutionResult, name: str, code: str) -> str:
    """Return a program as it was run, with what was repaired in it."""
    repairs = ", ".join(result.repairs) or "nothing"
    program = code if result.program is None else result.program
    return f"# {name}, repaired: {repairs}\n{program.rstrip()}\n"


def _program(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no Python file; a picture is given with --image") from error


def _run(
    blocks: list[tuple[str, str]],
    inputs: list[InputImage],
    timeout_s: float | None,
    as_json: bool,
    explain: bool,
    save_images: Path | None,
) -> bool:
    """Run the blocks, print their results, and tell whether all of them ended well."""
    good = True
    with open_pool() as pool, pool.open_sync(inputs) as session:
        for name, code in blocks:
            result = session.run_sync(code, timeout_s)
            good = good and result.ok
            if as_json:
                typer.echo(json.dumps(result_record(result, name), ensure_ascii=False))
            else:
                if explain:
                    typer.echo(_explanation(result, name, code))
                typer.echo(render_observation(result).text)
            if save_images is not None:
                save_images.mkdir(parents=True, exist_ok=True)
                for number, returned in enumerate(result.images):
                    kind = sniff(returned.data)
                    suffix = kind.suffix if kind else ""
                    stem = Path(returned.name).stem or "image"
                    (save_images / f"{stem}-{number}{suffix}").write_bytes(returned.data)
    return good
