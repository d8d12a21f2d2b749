"""What a scripted model with Qwen's vocabulary says: tags that end inside tokens, and go on."""

import re
from typing import Any, NamedTuple

CODE = "<think>Look. <code>\n```python\nprint({n} * 7)\n```\n</"
ANSWER = "So.</think>\n<answer>{n}</"
LATE = " and so on and on."
"""What is said where the engine does not stop."""


class Script(NamedTuple):
    """Two turns."""

    code: str
    """The tag that ends the block, without its last character."""
    answer: str
    tail: str
    """One token: the last character of the tags, and more."""


SCRIPTS = [
    Script(code, answer, tail)
    for code, answer in (("code", "answer"), ("Code", "Answer"), ("CODE", "ANSWER"))
    for tail in ("><", ">.", ">The", "></", ">", ">\n\n")
] + [Script("cODe", "aNSwer", ">"), Script("cODe", "aNSwer", ">.")]
PUNCTUAL = 18
"""Scripts with tags at which engines stop; the others are ended by the trajectory alone."""


def prompt_of(number: int) -> str:
    """Return the prompt that asks for a script."""
    return f"script {number}."


def turn_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids that come next.

    Args:
        tokenizer: Qwen's.
        prompt: What the engine goes on from, the assistant's turn so far included.
    """
    found = re.search(r"script (\d+)\.", prompt)
    assert found is not None
    number = int(found[1])
    script = SCRIPTS[number]
    is_second = "</sandbox_output>" in prompt
    before, tag = (ANSWER, script.answer) if is_second else (CODE, script.code)
    ids = tokenizer.encode(before.format(n=number) + tag)
    tail = tokenizer.encode(script.tail)
    assert len(tail) == 1
    return [*ids, *tail, *tokenizer.encode(LATE), tokenizer.eos_token_id]
