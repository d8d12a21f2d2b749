"""``thyme ask``: one question, watched as it is answered."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.text import Text

from swift_thyme.commands.messages import note, plain, say
from swift_thyme.commands.model_options import ModelOptions, with_model_options
from swift_thyme.core.errors import DataError, SandboxUnavailableError
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory_files import ImageRef, TrajectoryWriter
from swift_thyme.inference.interrupt import exit_on_interrupt
from swift_thyme.inference.loop import (
    FinishedTrajectory,
    LoopSettings,
    ObservationEvent,
    TextEvent,
    run_trajectory,
)
from swift_thyme.inference.model import (
    ModelSettings,
    known_question,
    open_engine,
    quiet_hosts,
)
from swift_thyme.inference.prompt_images import PromptImage, read_image
from swift_thyme.inference.task import Task, make_task

__all__ = ["ask_command", "read_image_files"]


def read_image_files(paths: Sequence[Path]) -> list[PromptImage]:
    """Return the images at the paths, in order.

    Raises:
        DataError: One cannot be read; the message names it.
    """
    images = []
    for index, path in enumerate(paths):
        try:
            images.append(read_image(path.read_bytes(), index))
        except (OSError, DataError) as error:
            raise DataError(f"--image {path}: {error}") from error
    return images


@with_model_options
def ask_command(
    options: ModelOptions,
    question: Annotated[str, typer.Argument(help="The question.")],
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="An image; may be given several times.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", help="Folder that keeps the trajectory and its images."),
    ] = None,
    tools: Annotated[bool, typer.Option("--tools/--no-tools", help="Whether code runs.")] = True,
) -> None:
    """Ask a model about images; shows its reasoning, code and results as they happen."""
    quiet_hosts()
    settings = options.model_settings(concurrency=1)
    loop_settings = options.loop_settings(settings, tools=tools)
    # Seeded by what is asked, so that the same command gives the same answer.
    task = make_task(
        question,
        read_image_files(image or ()),
        system=options.system_prompt(settings),
        task_id="ask",
    )
    with exit_on_interrupt():
        finished = asyncio.run(_ask(settings, task, loop_settings, save))
    if finished.summary.end_reason is EndReason.SANDBOX_FAILURE:
        raise SandboxUnavailableError("the sandbox failed, see above; the answer is not complete")


async def _ask(
    settings: ModelSettings, task: Task, loop_settings: LoopSettings, save: Path | None
) -> FinishedTrajectory:
    from swift_thyme.sandbox import open_pool

    printer = _Printer(sys.stdout)
    writer = TrajectoryWriter(save) if save is not None else None
    pool = open_pool() if loop_settings.tools else None
    finished: FinishedTrajectory | None = None
    try:
        async with open_engine(settings) as engine:
            known = known_question(settings)
            if known is not None and task.question.strip() != known:
                note(f"note: the tiny model learnt one question ({known!r}); others give noise")
            events = run_trajectory(engine, task, pool, loop_settings)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, TextEvent):
                        printer.text(event.text)
                    elif isinstance(event, ObservationEvent):
                        refs = []
                        if writer is not None:
                            refs = [
                                writer.add_image(i.data, size=(i.width, i.height))
                                for i in event.segment.images
                            ]
                        printer.observation(event, refs, save)
                    else:
                        finished = event
            assert finished is not None
            if writer is not None:
                record = finished.to_record(
                    writer, id=uuid.uuid4().hex, run=f"ask {engine.model_name}"
                )
                writer.write(record, durable=True)
            printer.end(finished)
            return finished
    finally:
        if pool is not None:
            await asyncio.to_thread(pool.close)
        if writer is not None:
            writer.close()


class _Printer:
    """Writes a trajectory to a terminal, or as plain text to anything else.

    Text of the model, of its code and of the user goes out as it is, without control characters:
    it must not drive the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)

    def text(self, text: str) -> None:
        """Write what the model wrote."""
        self._console.out(plain(text), end="")

    def observation(self, event: ObservationEvent, refs: list[ImageRef], save: Path | None) -> None:
        """Write what a block gave, and where its images are."""
        segment = event.segment
        style = "green" if segment.status == "ok" else "yellow"
        say(segment.text, style, console=self._console)
        for index, image in enumerate(segment.images):
            where = f", saved as {save / refs[index].file}" if save is not None else ""
            line = f"<image>: {image.width}x{image.height} pixels{where}"
            say(line, "dim", console=self._console)

    def end(self, finished: FinishedTrajectory) -> None:
        """Write the answer and a line of numbers."""
        summary = finished.summary
        answer = finished.answer
        self._console.print()
        reason = summary.end_reason.value if summary.end_reason else "unknown"
        if answer is None:
            self._console.print(Text.assemble(("no answer", "bold"), f" ({reason})"))
        else:
            self._console.print(Text.assemble(("answer:", "bold"), f" {plain(answer)}"))
        tokens = "?" if finished.sampled_tokens is None else finished.sampled_tokens
        say(
            f"{reason}; {summary.turns} turns, {summary.blocks_ran} of {summary.blocks_written} "
            f"code blocks ran, {summary.images} images returned, {tokens} tokens, "
            f"{finished.total_s:.1f} s",
            "dim",
            console=self._console,
        )
