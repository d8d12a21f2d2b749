"""The items of the proof: questions about a scene, and how each is solved with the tool.

This module owns the texts: questions, thoughts, programs. A demonstration is a list of steps. What
a program gives is not written here but taken from a sandbox that runs it (``rows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prove.pictures import VIEW_SIZE, Plate, Scene, Window, choose_window
from swift_thyme.core.protocol import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CODE_CLOSE,
    CODE_OPEN,
    OUTPUT_DIR,
    THINK_CLOSE,
    THINK_OPEN,
)

__all__ = [
    "FIRST_STAGE",
    "KINDS",
    "SECOND_STAGE",
    "TOOL_KINDS",
    "Item",
    "Step",
    "answer_part",
    "block",
    "clear_sentence",
    "demonstrate",
    "disc_sentence",
    "locate_sentence",
    "make_item",
    "read_sentence",
    "scene_options",
    "turn_sentence",
    "without_tool",
]

KINDS = ("read", "turned", "pale", "pair", "add", "larger", "disc")
"""What an item asks for; ``disc`` is the one that needs no tool."""
TOOL_KINDS = KINDS[:-1]
FIRST_STAGE = ("read", "turned", "pale", "pair", "disc")
SECOND_STAGE = ("add", "larger", "read", "add", "larger", "turned", "pale", "pair", "disc")
"""Kinds of the two stages of supervised training: to see, and then to compute."""


class Step(NamedTuple):
    """What the model writes before a block, and the block."""

    text: str
    code: str


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its answer."""

    kind: str
    question: str
    answer: str
    colour: str
    """Of the plate that is asked about; of the first one where two are."""
    addend: int = 0


def scene_options(kind: str) -> dict[str, bool]:
    """Return what ``draw_scene`` has to draw for a kind."""
    return {"turned": kind == "turned", "pale": kind == "pale"}


def make_item(kind: str, scene: Scene, rng: np.random.Generator) -> Item:
    """Ask a question of a kind about a scene."""
    colour = str(rng.choice(["yellow", "blue"]))
    number = scene.plates[colour].number
    asked = f"What number is on the {colour} plate?"
    if kind == "disc":
        return Item(kind, "What colour is the disc?", scene.disc, colour)
    if kind in ("pair", "larger"):
        first, second = scene.plates["yellow"].number, scene.plates["blue"].number
        both = "What numbers are on the yellow plate and on the blue plate?"
        if kind == "pair":
            return Item(kind, both, f"{first} and {second}", "yellow")
        larger = str(max(int(first), int(second)))
        return Item(kind, f"{both} Which is larger?", larger, "yellow")
    if kind == "add":
        addend = int(rng.integers(10, 100))
        total = str(int(number) + addend)
        return Item(kind, f"{asked} Add {addend} to it.", total, colour, addend)
    return Item(kind, asked, number, colour)


def clear_sentence(pale: bool) -> str:
    """Return the sentence about the contrast of the whole picture."""
    return f"The picture is {'pale' if pale else 'clear'}."


def locate_sentence(colour: str, window: Window) -> str:
    """Return the sentence that names the window to look at."""
    return f"The {colour} plate is near ({', '.join(str(v) for v in window)})."


def turn_sentence(turn: int) -> str:
    """Return the sentence that says how a plate lies."""
    return f"It is turned by {turn}." if turn else "It is upright."


def read_sentence(number: str) -> str:
    """Return the sentence that spells the digits one by one."""
    return f"The digits are {' and '.join(number)}."


def disc_sentence(colour: str) -> str:
    """Return the sentence about the disc."""
    return f"The disc is {colour}."


def _crop(name: str, window: Window, more: Sequence[str] = ()) -> list[str]:
    box = ", ".join(f"{v} * s" for v in window)
    path = f"{OUTPUT_DIR}{name}.png"
    return [
        f"{name} = image.crop(({box})).resize(({VIEW_SIZE}, {VIEW_SIZE}))",
        *more,
        f'{name}.save("{path}")',
        f'print("{path}")',
    ]


_OPEN = ["image = Image.open(image_path)", "s = image.width // 28"]


def _look(scene: Scene, item: Item, windows: Sequence[Window]) -> Step:
    """Return the first step: where to look, and the program that looks there."""
    colours = ("yellow", "blue") if len(windows) > 1 else (item.colour,)
    found = [locate_sentence(c, w) for c, w in zip(colours, windows, strict=True)]
    text = " ".join([clear_sentence(scene.pale), *found])
    if len(windows) > 1:
        lines = [*_OPEN, *_crop("first", windows[0]), *_crop("second", windows[1])]
    elif scene.pale:
        better = ["crop = ImageOps.autocontrast(crop)"]
        lines = ["from PIL import ImageOps", *_OPEN, *_crop("crop", windows[0], better)]
    else:
        lines = [*_OPEN, *_crop("crop", windows[0])]
    return Step(text, "\n".join(lines))


def _turn(plate: Plate) -> Step:
    path = f"{OUTPUT_DIR}turned.png"
    lines = [
        f"turned = crop.rotate({360 - plate.turn})",
        f'turned.save("{path}")',
        f'print("{path}")',
    ]
    return Step(turn_sentence(plate.turn), "\n".join(lines))


def demonstrate(
    scene: Scene, item: Item, rng: np.random.Generator, spread: float
) -> tuple[list[Step], str]:
    """Return the steps with code, and what is written after the last output.

    Args:
        scene: The picture.
        item: What is asked about it.
        rng: Source of the windows' deviation.
        spread: See ``choose_window``.
    """
    if item.kind == "disc":
        return [], answer_part(f"{clear_sentence(scene.pale)} {disc_sentence(item.answer)}", item)
    colours = ("yellow", "blue") if item.kind in ("pair", "larger") else (item.colour,)
    plates = [scene.plates[colour] for colour in colours]
    steps = [_look(scene, item, [choose_window(plate, rng, spread) for plate in plates])]
    if item.kind == "turned":
        steps.append(_turn(plates[0]))
    seen = " ".join([turn_sentence(0), *(read_sentence(plate.number) for plate in plates)])
    if item.kind == "add":
        steps.append(Step(seen, f"print({plates[0].number} + {item.addend})"))
    elif item.kind == "larger":
        steps.append(Step(seen, f"print(max({plates[0].number}, {plates[1].number}))"))
    else:
        return steps, answer_part(seen, item)
    return steps, answer_part("", item)


def answer_part(seen: str, item: Item) -> str:
    """Return the end of a turn: the last words of the thought, and the answer."""
    thought = " ".join(filter(None, [seen, f"The answer is {item.answer}."]))
    return f"{thought}{THINK_CLOSE}\n{ANSWER_OPEN}{item.answer}{ANSWER_CLOSE}"


def block(step: Step) -> str:
    """Return a step as the model writes it."""
    return f"{step.text} {CODE_OPEN}\n```python\n{step.code}\n```\n{CODE_CLOSE}"


def without_tool(scene: Scene, item: Item) -> str:
    """Return the turn of a model that answers at once, for the comparison without tools."""
    seen = clear_sentence(scene.pale)
    if item.kind == "disc":
        seen = f"{seen} {disc_sentence(item.answer)}"
    return f"{THINK_OPEN}{answer_part(seen, item)}"
