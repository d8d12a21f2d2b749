"""Is the next token inside ``<code>``? An incremental, engine-free state machine.

GRPO-ATS samples text at temperature 1 and code at temperature 0 (Thyme sec. 4). The switch has to
be decided token by token while a tokenizer splits the tags anywhere, so the machine works on the
characters that tokens stand for and keeps only the few that a tag may have begun with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swift_thyme.protocol import CODE_CLOSE, CODE_OPEN

__all__ = ["CodeSpan", "TokenText", "assistant_turn"]


class TokenText:
    """Text of single tokens, lower-cased and remembered.

    Args:
        decode: Returns the text of a list of ids, special tokens included.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._known: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        """Return the lower-cased text of one token."""
        text = self._known.get(token_id)
        if text is None:
            text = self._known[token_id] = self._decode([token_id]).lower()
        return text


class CodeSpan:
    """Tells whether the next token of one sequence is inside a code block.

    A block begins after ``<code>`` and ends after ``</code>``, in any case; a tag of the same kind
    inside (``<code>`` in a program's string) changes nothing. Constant time per token.
    """

    __slots__ = ("_tail", "inside")

    def __init__(self) -> None:
        self.inside = False
        """Whether the next token is inside a code block."""
        self._tail = ""

    def push(self, text: str) -> bool:
        """Take the lower-cased text of one token and return :attr:`inside`."""
        text = self._tail + text
        while True:
            tag = CODE_CLOSE if self.inside else CODE_OPEN
            position = text.find(tag)
            if position < 0:
                # One character less than the tag can still become it.
                self._tail = text[-(len(tag) - 1) :]
                return self.inside
            self.inside = not self.inside
            text = text[position + len(tag) :]

    def push_all(self, texts: Iterable[str]) -> bool:
        """Take the texts of several tokens in order and return :attr:`inside`."""
        for text in texts:
            self.push(text)
        return self.inside


def assistant_turn(prompt_ids: list[int], turn_start_id: int | None) -> list[int]:
    """Return the ids of the assistant's turn so far, which a continued prompt ends with.

    The system prompt talks about ``<code>`` tags; only what follows the last turn marker counts.

    Args:
        prompt_ids: The engine's prompt.
        turn_start_id: Id of ``<|im_start|>``; None where the tokenizer has none.
    """
    if turn_start_id is None:
        return []
    for index in range(len(prompt_ids) - 1, -1, -1):
        if prompt_ids[index] == turn_start_id:
            return prompt_ids[index + 1 :]
    return []
