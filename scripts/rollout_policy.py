"""The policy of ``bench_rollout.py`` and ``gpu/steps.sh``: thoughts of given lengths, then crops.

A question names the plans of its trajectories. A plan is the tokens of each thought; a crop follows
each but the last, and an answer the last.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from swift_thyme.core.environment import Reader
from tests.scripted_logits import ScriptedLogits

OPEN = "<code>"
CODE = (
    "\n```python\nimage = Image.open(image_path)\n"
    "image = image.crop(({left}, 0, {left} + image.width // 2, image.height // 2))\n"
    'image.save("/mnt/data/temp_processed_images/crop{left}.jpg")\n'
    'print("/mnt/data/temp_processed_images/crop{left}.jpg")\n```\n</code>'
)
ANSWER = "</think>\n<answer>{number}</answer>"
CHOICE = "Plan {number}."


def question(plans: Sequence[Sequence[int]], number: int, *, at_once: bool = False) -> str:
    """Return a question that names the thoughts of its trajectories.

    Args:
        plans: One for each trajectory of a group: tokens of its thoughts, one per turn.
        number: Which question it is.
        at_once: Whether all is said in one turn, with the same number of tokens and no code.
    """
    kind = "tokens" if at_once else "turns"
    return f"Say {number} in {kind} {' / '.join(' '.join(map(str, plan)) for plan in plans)}!"


@functools.cache
def words(tokenizer: Any) -> list[int]:
    """Return ids that say nothing."""
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    return [token for token, text in texts.items() if text.isascii() and text.strip().isalpha()]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


class Policy(ScriptedLogits):
    """Says what the question asks for; which turn it is, is read off the prompt.

    The trajectories of a group take its plans in turn, as they come, and each process begins with
    another one. A trajectory says which plan it has, so that its later turns know.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked: Counter[int] = Counter()

    def script(self, prompt: str, tokenizer: Any) -> Sequence[int] | None:
        found = re.search(r"Say (\d+) in (turns|tokens) ([\d /]+)!", prompt)
        if found is None:
            return None
        number = int(found[1])
        plans = [[int(length) for length in plan.split()] for plan in found[3].split("/")]
        said = prompt.rpartition("<|im_start|>assistant\n")[2]
        turn = said.count("</sandbox_output>")
        chosen, is_new = self._choose(said, number, len(plans))
        plan = plans[chosen]
        rng = random.Random(number * 100 + chosen * 10 + turn)
        vocabulary = words(tokenizer)
        answer = _ids(tokenizer, ANSWER.format(number=2 + chosen % 2))
        codes = [
            _ids(tokenizer, CODE.format(left=(number * 7 + chosen * 5 + t * 3) % 100))
            for t in range(len(plan))
        ]
        tag = _ids(tokenizer, OPEN)
        if found[2] == "tokens":
            told = sum(plan) + sum(len(tag) + len(code) for code in codes[:-1])
            return [*rng.choices(vocabulary, k=told), *answer]
        if said.endswith(OPEN):
            # The published way asks again in the middle of the turn.
            return codes[turn]
        choice = _ids(tokenizer, CHOICE.format(number=chosen)) if is_new else []
        thought = [*choice, *rng.choices(vocabulary, k=plan[turn])]
        if turn == len(plan) - 1:
            return [*thought, *answer]
        return [*thought, *tag, *codes[turn]]

    def _choose(self, said: str, number: int, n_plans: int) -> tuple[int, bool]:
        """Return the plan of a trajectory, and whether it has yet to say so."""
        if n_plans == 1:
            return 0, False
        told = re.match(CHOICE.format(number=r"(\d+)"), said)
        if told is not None:
            return int(told[1]), False
        self._asked[number] += 1
        return (self._asked[number] - 1 + max(Reader().count("RANK"), 0)) % n_plans, True
