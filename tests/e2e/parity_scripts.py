"""What the model says in the tests that compare modes: one script per way a trajectory can go.

A script is a list of turns. A turn is a tuple of texts and of numbers of tokens that say nothing.
The row's question names the script; which turn comes next is read off the prompt.
"""

import random
import re
from typing import Any

from swift_thyme.core import repetition

MAX_TURNS = 3
MAX_TURN_TOKENS = 180
"""Sampled tokens of a turn."""
MAX_TOKENS = 400
"""Prompt and completion together."""
LOOP_TOKENS = 128
"""After so many tokens a loop counts as evident, in place of 512, which would take minutes."""
MAX_IMAGES = 3

ANSWER = "It is 2.</think>\n<answer>2</answer>"
TAG_IN_CODE = "<think>say <code>\nprint('</answer>"
COMPUTE = "<think>count <code>\n```python\nprint(1 + 1)\n```\n</code>"


def crops(*names: str) -> str:
    """Return a turn whose code saves and prints pictures of these names."""
    lines = "".join(
        f'image.crop((0, 0, {96 + 8 * n}, 96)).save("/mnt/data/temp_processed_images/{name}.png")\n'
        f'print("/mnt/data/temp_processed_images/{name}.png")\n'
        for n, name in enumerate(names)
    )
    program = f"image = Image.open(image_path)\n{lines}"
    return f"<think>look <code>\n```python\n{program}```\n</code>"


SCRIPTS: dict[str, list[tuple[str | int, ...]]] = {
    "answer": [("<think>I see it.</think>\n<answer>2</answer>",)],
    "no answer": [("<think>I see nothing",)],
    "wrong answer": [("<think>I see it.</think>\n<answer>7</answer>",)],
    "picture": [(crops("a"),), (ANSWER,)],
    "two pictures": [(crops("a", "b"),), (ANSWER,)],
    "three turns": [(crops("a"),), (COMPUTE,), (ANSWER,)],
    "error": [("<think>look <code>\nprint(unknown)\n</code>",), (ANSWER,)],
    "silence": [("<think>look <code>\nx = 1\n</code>",), (ANSWER,)],
    "loop": [("again " * 60,)],
    "loop later": [(COMPUTE,), ("again " * 60,)],
    "long": [(300,)],
    "long later": [(COMPUTE,), (300,)],
    "long in the end": [(100, crops("a")), (300,)],
    "long output": [("<think>look <code>\nprint('word and ' * 500)\n</code>",), (ANSWER,)],
    "many pictures": [(crops("a", "b", "c"),), (ANSWER,)],
    "turn limit": [(COMPUTE,), (crops("a"),), (COMPUTE,)],
    "tag in prose": [("<think>One could write </code>",), (" or not.</think><answer>2</answer>",)],
    "tag in code": [(TAG_IN_CODE,), ("')\n</code>",), (ANSWER,)],
    "end in code": [("<think>say <code>\nprint(1)",)],
    "untrained code": [(crops("a"),), (COMPUTE,), (ANSWER,)],
    "untrained turn limit": [(COMPUTE,), (COMPUTE,), (COMPUTE,)],
    "untrained long code": [(COMPUTE,), ("Again <code>\nx = '", 300)],
    "untrained tag in code": [
        ("<think>say <code>\nprint('</answer>",),
        ("')\n</code>",),
        (ANSWER,),
    ],
}
"""With "untrained" in its name, a script is run as with THYME_TRAIN_CODE_TOKENS=false."""

ENDS = {
    "answer": "answer",
    "no answer": "end_of_text",
    "wrong answer": "answer",
    "picture": "answer",
    "two pictures": "answer",
    "three turns": "answer",
    "error": "answer",
    "silence": "answer",
    "loop": "repetition",
    "loop later": "repetition",
    "long": "length_limit",
    "long later": "length_limit",
    "long in the end": "length_limit",
    "long output": "length_limit",
    "many pictures": "image_limit",
    "turn limit": "turn_limit",
    "tag in prose": "answer",
    "tag in code": "answer",
    "end in code": "end_of_text",
    "untrained code": "answer",
    "untrained turn limit": "turn_limit",
    "untrained long code": "length_limit",
    "untrained tag in code": "answer",
}
"""How each ends."""


def shorten_loops() -> None:
    """Have this process take a loop for evident after :data:`LOOP_TOKENS`."""
    repetition.LEAST_TOKENS = LOOP_TOKENS
    repetition._NEEDLE = LOOP_TOKENS * (repetition.COPIES - 1) // repetition.COPIES


def question_of(name: str) -> str:
    """Return the text that makes a prompt ask for a script."""
    return f"Say the script {name}!"


def name_in(text: str) -> str | None:
    """Return the script that a prompt asks for."""
    found = re.search(r"Say the script ([\w ]+)!", text)
    return found.group(1) if found else None


def turns_of(name: str, tokenizer: Any) -> list[list[int]]:
    """Return the ids of a script's turns; the end of the text is not among them."""
    return [[token for part in turn for token in _ids(part, tokenizer)] for turn in SCRIPTS[name]]


def _ids(part: str | int, tokenizer: Any) -> list[int]:
    if isinstance(part, int):
        return _meaningless(tokenizer, part)
    return list(tokenizer.encode(part, add_special_tokens=False))


def _meaningless(tokenizer: Any, length: int) -> list[int]:
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    words = [token for token, text in texts.items() if text.strip().isalpha()]
    rng = random.Random(length)
    return [rng.choice(words) for _ in range(length)]


def next_turn(prompt: str, tokenizer: Any) -> list[int] | None:
    """Return the ids that come next; None where the prompt asks for no script.

    Args:
        prompt: The decoded prompt: all that the engine continues, special tokens included.
        tokenizer: The model's.
    """
    name = name_in(prompt)
    if name is None:
        return None
    said = prompt.rpartition("<|im_start|>assistant\n")[2]
    for turn in turns_of(name, tokenizer):
        text = tokenizer.decode(turn)
        if not said.startswith(text):
            return turn
        said = re.sub(r"^<sandbox_output>.*?</sandbox_output>", "", said[len(text) :], flags=re.S)
    raise ValueError(f"script {name!r} is over, and {said[-200:]!r} is left")
