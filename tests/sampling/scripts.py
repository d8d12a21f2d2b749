"""What a scripted model says: texts that end in a loop, and one that does not."""

import random

WORDS = range(200, 600)
"""Ids of ordinary tokens of the tiny model."""


def make_script(n_before: int, period: int, length: int) -> list[int]:
    """Return ids: a text that does not repeat itself, then copies of one block."""
    rng = random.Random(n_before * 1000 + period)
    before = [rng.choice(WORDS) for _ in range(n_before)]
    block = [rng.choice(WORDS) for _ in range(period)]
    return before + (block * (length // period + 1))[: length - n_before]


SCRIPTS = {
    "one": make_script(0, 1, 600),
    "three": make_script(90, 3, 650),
    "fifty": make_script(107, 50, 680),
    "hundreds": make_script(64, 300, 1800),
    "none": make_script(680, 1, 680),
}
"""What is said, by name. A script that is over repeats its last word."""


def script_of(name: str) -> str:
    """Return the text that makes a prompt ask for a script."""
    return f"script {name}."
