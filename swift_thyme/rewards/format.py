r"""The format that ``fmt_orm`` rewards: one think block, then one answer block, nothing else.

The grammar, over what the model wrote (sandbox outputs are taken out first; tags match in any
case; ``ws`` is any amount of white space, none included)::

    completion := ws think ws answer ws
    think      := "<think>" ( text | code )* "</think>"     not empty
    code       := "<code>" anything but code tags "</code>"
    answer     := "<answer>" text "</answer>"               not empty
    text       := characters without any protocol tag

So leading or trailing junk, an empty or missing block, a second block, code outside the thinking,
and unclosed or nested tags all fail. Inside a code block every other tag is a piece of a program
(``print("<answer>")``) and does not count. Special tokens that end a turn (``<|im_end|>``) may
follow the answer: an engine may or may not decode them. Source: Thyme facts ("exactly one think and
one answer block, in order, answer last").
"""

from __future__ import annotations

import re

from swift_thyme.core.protocol import remove_sandbox_outputs

__all__ = ["follows_format"]

_END_TOKENS = re.compile(r"(?:\s*<\|(?:im_end|endoftext|eot_id|end)\|>)+\s*\Z")
_CODE_TAG = re.compile(r"<(/?)code>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?(?:think|code|sandbox_output|answer)>", re.IGNORECASE)
_SHAPE = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)

_CODE_MARK = "\x00"


def _without_code(text: str) -> str | None:
    """Replace each code block by one mark; None where code tags are unbalanced or nested."""
    kept: list[str] = []
    position = 0
    opened = False
    for tag in _CODE_TAG.finditer(text):
        closing = bool(tag.group(1))
        if closing != opened:
            return None
        if closing:
            kept.append(_CODE_MARK)
        else:
            kept.append(text[position : tag.start()])
        position = tag.end()
        opened = not opened
    if opened:
        return None
    kept.append(text[position:])
    return "".join(kept)


def follows_format(completion: str) -> bool:
    """Tell whether a completion follows the grammar in this module's docstring."""
    own = _END_TOKENS.sub("", remove_sandbox_outputs(completion)).replace(_CODE_MARK, "")
    plain = _without_code(own)
    if plain is None:
        return False
    match = _SHAPE.fullmatch(plain)
    if match is None:
        return False
    think, answer = match.groups()
    if _ANY_TAG.search(think) or _ANY_TAG.search(answer):
        return False
    return bool(think.strip()) and bool(answer.strip()) and _CODE_MARK not in answer
