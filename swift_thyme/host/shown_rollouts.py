"""A few kept trajectories as pictures in TensorBoard and Weights & Biases, while a run goes on.

Shown are the prompt's picture, what the code returned, the answer and the rewards, and beside it
the whole text. It goes where ``--report_to`` sends the metrics, on the main process alone, through
the writers that are open there. What is shown is bounded: so many a time
(``THYME_REPORT_TRAJECTORIES``), about a hundred times in a run, pictures of a fixed height.

Training never depends on it: the first failure is logged and ends the showing.
"""

from __future__ import annotations

import html
import logging
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from swift_thyme.core.images import read
from swift_thyme.core.pictures import decoding, flat, open_image, upright
from swift_thyme.core.trajectory_files import TrajectoryRecord
from swift_thyme.host.rollout_records import Kept

__all__ = ["Showcase", "draw_card", "full_text"]

logger = logging.getLogger(__name__)

TIMES = 100
"""About so often in a run trajectories are shown."""
HEIGHT = 240
"""Of each picture of a card, in pixels."""
MOST_PICTURES = 4
MARGIN = 10
FONT_SIZE = 14
LINE_HEIGHT = 19
MOST_LINES = 10
MOST_CHARACTERS_DRAWN = 240
"""Of the question and of each fact."""
MOST_CHARACTERS = 20_000
"""Longest text beside a card."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def full_text(record: TrajectoryRecord) -> str:
    """Return the question, the model's turn with all outputs, and how it was scored."""
    text = "\n".join([record.question, "", record.completion, "", *_facts(record)])
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + " [cut off]"
    return _CONTROL.sub("", text)


def _facts(record: TrajectoryRecord) -> list[str]:
    reward = record.meta.get("reward")
    scores = {"reward": reward, **record.rewards}
    lines = [f"answer: {'(none)' if record.answer is None else record.answer}"]
    if record.reference:
        lines.append(f"reference: {' or '.join(record.reference)}")
    lines.append(
        ", ".join(
            f"{name} {'not scored' if value is None else format(value, '.3g')}"
            for name, value in scores.items()
        )
    )
    if record.end_reason:
        lines.append(f"ended: {record.end_reason}, {record.turns} turns")
    return lines


def draw_card(kept: Kept) -> Image.Image:
    """Draw a trajectory: its pictures in a row, the prompt's first, and its outcome below.

    Raises:
        DataError: A picture cannot be read.
    """
    pictures = [_picture(image) for image in kept.images[:MOST_PICTURES]]
    row = sum(picture.width + MARGIN for picture in pictures)
    width = max(row + MARGIN, 480)
    lines = []
    for text in (kept.record.question, *_facts(kept.record)):
        # The whole text is beside the card.
        short = " ".join(_CONTROL.sub("", text).split())[:MOST_CHARACTERS_DRAWN]
        lines += textwrap.wrap(short, (width - 2 * MARGIN) // 7)
    lines = lines[:MOST_LINES]
    top = HEIGHT + 2 * MARGIN if pictures else MARGIN
    card = Image.new("RGB", (width, top + len(lines) * LINE_HEIGHT + MARGIN), "white")
    x = MARGIN
    for picture in pictures:
        card.paste(picture, (x, MARGIN))
        x += picture.width + MARGIN
    pen = ImageDraw.Draw(card)
    font = ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        pen.text((MARGIN, top + number * LINE_HEIGHT), line, fill="black", font=font)
    return card


def _picture(image: Any) -> Image.Image:
    name = "a picture of a trajectory"
    with open_image(read(image), name) as opened, decoding(name):
        opened.draft("RGB", (2 * HEIGHT, 2 * HEIGHT))
        picture = flat(upright(opened))
        # A panorama does not widen the card.
        width = min(max(1, round(picture.width * HEIGHT / picture.height)), 2 * HEIGHT)
        return picture.resize((width, HEIGHT), Image.Resampling.BICUBIC)


class Showcase:
    """Shows kept trajectories where a run reports its metrics.

    Args:
        most: Trajectories at a time, of training and of an evaluation each; 0 shows none.
        reporters: The trainer's callbacks; those of TensorBoard and W&B are used.
        max_steps: Steps of the run.
    """

    def __init__(self, most: int, reporters: Sequence[Any], max_steps: int) -> None:
        self._most = most
        self._reporters = reporters
        self._gap = max_steps / TIMES
        self._last: dict[str, int] = {}

    def show(self, kept: Sequence[Kept], step: int) -> None:
        """Show some of the trajectories that were kept at a step.

        Args:
            kept: Trajectories of this process.
            step: The training step.
        """
        by_mode: dict[str, list[Kept]] = {}
        for item in kept:
            by_mode.setdefault(item.record.run, []).append(item)
        for mode, items in by_mode.items():
            last = self._last.get(mode)
            if self._most == 0 or (last is not None and step - last < self._gap):
                continue
            self._last[mode] = step
            try:
                self._send(mode, items[: self._most], step)
            # Drawing and foreign writers may fail in any way, and training is not to end for it.
            except Exception as error:  # noqa: BLE001
                logger.warning("no more trajectories are shown in TensorBoard or W&B: %r", error)
                self._most = 0

    def _send(self, mode: str, items: Sequence[Kept], step: int) -> None:
        writer = self._tensorboard()
        wandb = self._wandb()
        if writer is None and wandb is None:
            return
        cards = [draw_card(item) for item in items]
        texts = [full_text(item.record) for item in items]
        if writer is not None:
            import numpy

            for number, (card, text) in enumerate(zip(cards, texts, strict=True), 1):
                tag = f"trajectories_{mode}/{number}"
                writer.add_image(tag, numpy.asarray(card), step, dataformats="HWC")
                # TensorBoard reads Markdown; an indented line is shown as it is.
                indented = "\n".join(f"    {line}" for line in text.splitlines())
                writer.add_text(tag, indented, step)
            writer.flush()
        if wandb is not None:
            whole = "<hr>".join(f"<pre>{html.escape(text)}</pre>" for text in texts)
            wandb.log(
                {
                    f"trajectories/{mode}": [
                        wandb.Image(card, caption=f"step {step}, {item.record.id}")
                        for card, item in zip(cards, items, strict=True)
                    ],
                    f"trajectories/{mode}_text": wandb.Html(whole),
                    # What transformers gives W&B as the step of every metric.
                    "train/global_step": step,
                }
            )

    def _tensorboard(self) -> Any:
        """Return the open writer of TensorBoard's callback, or None."""
        for callback in self._reporters:
            if type(callback).__name__ == "TensorBoardCallback":
                return getattr(callback, "tb_writer", None)
        return None

    def _wandb(self) -> Any:
        """Return the module of W&B where its callback has a run open, or None."""
        if not any(type(callback).__name__ == "WandbCallback" for callback in self._reporters):
            return None
        import wandb

        return wandb if wandb.run is not None else None
