r"""The format that ``fmt_orm`` rewards: one think block, then one answer block, nothing else.

The grammar, over what the model wrote (sandbox outputs are taken out first; tags match in any
case; ``ws`` is any amount of white space, none included)::

    completion := ws [ "<think>" ws "</think>" ] ws think ws answer ws
    think      := "<think>" ( text | code )* "</think>"     not empty
    code       := "<code>" anything but code tags "</code>"
    answer     := "<answer>" text "</answer>"               not empty
    text       := characters without any protocol tag

The empty thought in front is that of a template (:attr:`swift_thyme.core.reading.Reading.opening`).
So leading or trailing junk, an empty or missing block, a second block, code outside the thinking,
and unclosed or nested tags all fail. Inside a code block every other tag is a piece of a program
(``print("<answer>")``) and does not count. Special tokens that end a turn (``<|im_end|>``) may
follow the answer: an engine may or may not decode them. Source: Thyme facts ("exactly one think and
one answer block, in order, answer last").
"""

from __future__ import annotations

import re

from swift_thyme.core.protocol import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    CODE_CLOSE,
    CODE_OPEN,
    OUTPUT_CLOSE,
    OUTPUT_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
)
from swift_thyme.core.reading import find_tags, read

__all__ = ["follows_format"]

_END_TOKENS = re.compile(
    r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end|user)\|>|<end_of_turn>|<turn\|>|<eos>|</s>))+\s*\Z"
)
_SHAPE = [THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE]
_INSIDE = (CODE_OPEN, CODE_CLOSE, OUTPUT_OPEN, OUTPUT_CLOSE)


def follows_format(completion: str) -> bool:
    """Tell whether a completion follows the grammar in this module's docstring."""
    reading = read(_END_TOKENS.sub("", completion))
    start = reading.opening
    shape = [tag for tag in reading.tags if tag.text not in _INSIDE and tag.start >= start]
    if [tag.text for tag in shape] != _SHAPE or any(tag.stray for tag in reading.tags):
        return False
    think, think_end, answer, answer_end = shape
    for block in reading.blocks:
        if not block.closed or CODE_OPEN in find_tags(block.inner):
            return False
        if block.start < think.end or block.end > think_end.start:
            return False
    parts = [
        reading.without_outputs(start, think.start),
        reading.without_outputs(think_end.end, answer.start),
        reading.without_outputs(answer_end.end),
    ]
    if any(part.strip() for part in parts):
        return False
    thought = reading.without_outputs(think.end, think_end.start, code=CODE_OPEN)
    return bool(thought.strip()) and reading.answer is not None
