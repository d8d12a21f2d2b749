"""The untrained models of the proof: two sizes of Qwen2.5-VL's architecture, one vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tiny_model.architecture import (
    Size,
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
)

from prove.items import KINDS, block, demonstrate, make_item, without_tool
from prove.pictures import CELLS, COLOURS, Plate, Scene
from swift_thyme.core.protocol import build_user_prompt
from swift_thyme.testbed.data import SYSTEM_PROMPT

__all__ = ["MOST_NUMBER", "SIZES", "make_model", "make_processor"]

SIZES = {
    "2m": Size(width=128, text_layers=5, text_mlp=256, vision_layers=4, vision_mlp=256),
    "14m": Size(width=320, text_layers=6, text_mlp=896, vision_layers=4, vision_mlp=640),
}
MOST_NUMBER = 200
"""Whole numbers up to this are one token each."""
_VOCABULARY = 1200
EXERCISE_PROMPTS = ("Read the plate.", "Read both plates.", "Repeat it.", "Join the digits.")


def _corpus() -> Iterator[str]:
    """Yield the texts of the items, without pictures."""
    rng = np.random.default_rng(0)
    for index in range(700):
        kind = KINDS[index % len(KINDS)]
        plates = {
            name: Plate(str(int(rng.integers(10, 100))), *rng.uniform(2, CELLS - 2, size=2), turn)
            for name, turn in zip(("yellow", "blue"), rng.choice([90, 180, 270], 2), strict=True)
        }
        disc = str(rng.choice(list(COLOURS)))
        scene = Scene(None, plates, disc, kind == "pale")  # type: ignore[arg-type]
        item = make_item(kind, scene, rng)
        steps, end = demonstrate(scene, item, rng, 1.0)
        path = f"/tmp/prove/pictures/{int(rng.integers(10**9)):010d}.jpg"
        yield SYSTEM_PROMPT
        yield build_user_prompt(item.question, path, (448, 448))
        yield from (block(step) for step in steps)
        yield end
        yield without_tool(scene, item)
        yield " ".join([*EXERCISE_PROMPTS, "system user assistant"])
        yield f"The disc is {disc}. The answer is {disc}."
    for number in range(MOST_NUMBER + 1):
        yield from [f"{number}"] * 300


def make_processor() -> Any:
    """Return the processor of both sizes, tokenizer included.

    Raises:
        SystemExit: The vocabulary came out otherwise than the exercises need it.
    """
    tokenizer = build_tokenizer(_corpus(), _VOCABULARY)
    words = [str(n) for n in range(MOST_NUMBER + 1)]
    words += [f" {w}" for w in (*COLOURS, "yellow", "blue", "clear", "pale")]
    torn = [w for w in words if len(tokenizer.encode(w, add_special_tokens=False)) != 1]
    if torn:
        raise SystemExit(f"the vocabulary needs these as one token each: {torn}")
    return build_processor(tokenizer)


def make_model(processor: Any, size: str, seed: int) -> Any:
    """Return a model of a size of ``SIZES`` in float32 with fresh weights."""
    return build_model(build_config(processor.tokenizer, SIZES[size]), seed)
