"""The policy of ``bench_rollout.py``: thoughts of given lengths, a crop after each but the last."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from typing import Any

from tests.scripted_logits import ScriptedLogits

OPEN = "<code>"
CODE = (
    "\n```python\nimage = Image.open(image_path)\n"
    "image = image.crop(({left}, 0, image.width * 3 // 4, image.height * 3 // 4))\n"
    'image.save("/mnt/data/temp_processed_images/crop{left}.jpg")\n'
    'print("/mnt/data/temp_processed_images/crop{left}.jpg")\n```\n</code>'
)
ANSWER = "</think>\n<answer>2</answer>"


def question(plan: Sequence[int], at_once: bool, number: int) -> str:
    """Return a question that names the thoughts of a trajectory.

    Args:
        plan: Tokens of its thoughts, one per turn.
        at_once: Whether all is said in one turn, with the same number of tokens and no code.
        number: Which trajectory it is.
    """
    kind = "tokens" if at_once else "turns"
    return f"Say {number} in {kind} {' '.join(map(str, plan))}!"


@functools.cache
def words(tokenizer: Any) -> list[int]:
    """Return ids that say nothing."""
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    return [token for token, text in texts.items() if text.strip().isalpha()]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


class Policy(ScriptedLogits):
    """Says what the question asks for; which turn it is, is read off the prompt."""

    def script(self, prompt: str, tokenizer: Any) -> Sequence[int] | None:
        found = re.search(r"Say (\d+) in (turns|tokens) ([\d ]+)!", prompt)
        if found is None:
            return None
        number, plan = int(found[1]), [int(length) for length in found[3].split()]
        said = prompt.rpartition("<|im_start|>assistant\n")[2]
        turn = said.count("</sandbox_output>")
        rng = random.Random(number * 10 + turn)
        vocabulary = words(tokenizer)
        answer = _ids(tokenizer, ANSWER)
        codes = [
            _ids(tokenizer, CODE.format(left=(number * 7 + t * 3) % 100)) for t in range(len(plan))
        ]
        tag = _ids(tokenizer, OPEN)
        if found[2] == "tokens":
            told = sum(plan) + sum(len(tag) + len(code) for code in codes[:-1])
            return [*rng.choices(vocabulary, k=told), *answer]
        if said.endswith(OPEN):
            # The published way asks again in the middle of the turn.
            return codes[turn]
        thought = rng.choices(vocabulary, k=plan[turn])
        if turn == len(plan) - 1:
            return [*thought, *answer]
        return [*thought, *tag, *codes[turn]]
