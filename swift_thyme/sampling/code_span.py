"""Is the next token inside ``<code>``? An incremental, engine-free state machine.

GRPO-ATS samples text at temperature 1 and code at temperature 0 (Thyme sec. 4). The switch has to
be decided token by token while a tokenizer splits the tags anywhere, so the machine works on the
characters that tokens stand for and keeps only the few that a tag may have begun with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from swift_thyme.core.protocol import CODE_CLOSE, CODE_OPEN, OUTPUT_CLOSE, OUTPUT_OPEN

__all__ = ["CodeSpan", "TokenTexts", "assistant_turn"]

_TAGS = (CODE_OPEN, CODE_CLOSE, OUTPUT_OPEN, OUTPUT_CLOSE)
_LONGEST_TAG = max(map(len, _TAGS))


def _begun_tag(text: str, tags: tuple[str, ...]) -> str:
    """Return the end of the text with which one of the tags may have begun, or nothing."""
    # All tags have their only "<" in front, so a tag that has begun begins at the last one.
    begin = text.rfind("<", -_LONGEST_TAG)
    rest = text[begin:] if begin >= 0 else ""
    return rest if any(tag.startswith(rest) for tag in tags) else ""


class TokenTexts:
    """Texts of single tokens, lower-cased and remembered.

    Args:
        decode: Returns the text of a list of ids, special tokens included.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._texts: dict[int, str] = {}
        self.plain: set[int] = set()
        """Ids seen so far whose text cannot begin a tag: most of a vocabulary."""

    def __getitem__(self, token_id: int) -> str:
        """Return the lower-cased text of one token."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._decode([token_id]).lower()
            if not any(tag in text for tag in _TAGS) and not _begun_tag(text, _TAGS):
                self.plain.add(token_id)
        return text


class CodeSpan:
    """Tells whether the next token of one sequence is inside a code block.

    It reads the tags as ``protocol.has_open_code_block`` does: a block begins after ``<code>`` and
    ends after ``</code>``, in any case; a tag of the same kind inside (``<code>`` in a program's
    string) changes nothing, nor does any tag between ``<sandbox_output>`` and
    ``</sandbox_output>``. Constant time per token.
    """

    __slots__ = ("_in_output", "inside", "unfinished")

    def __init__(self) -> None:
        self.inside = False
        """Whether the next token is inside a code block."""
        self.unfinished = ""
        """Characters with which a tag may have begun."""
        self._in_output = False

    def push(self, text: str) -> None:
        """Take the lower-cased text of one token."""
        text = self.unfinished + text
        while True:
            other = OUTPUT_CLOSE if self._in_output else OUTPUT_OPEN
            tags: tuple[str, ...] = (other,)
            if not self._in_output:
                tags = (CODE_CLOSE if self.inside else CODE_OPEN, other)
            found = [(position, tag) for tag in tags if (position := text.find(tag)) >= 0]
            if not found:
                break
            position, tag = min(found)
            if tag == other:
                self._in_output = not self._in_output
            else:
                self.inside = not self.inside
            text = text[position + len(tag) :]
        self.unfinished = _begun_tag(text, tags)

    def push_ids(self, texts: TokenTexts, token_ids: Iterable[int]) -> None:
        """Take several tokens in order."""
        plain = texts.plain
        for token_id in token_ids:
            if self.unfinished or token_id not in plain:
                self.push(texts[token_id])

    def text_mask(self, texts: TokenTexts, token_ids: Sequence[int]) -> list[int]:
        """Take several tokens and return 0 for those that came inside a block, else 1.

        The tokens that end a block are inside it: they were sampled as code.
        """
        mask = []
        for token_id in token_ids:
            mask.append(0 if self.inside else 1)
            self.push_ids(texts, (token_id,))
        return mask


def assistant_turn(prompt_ids: Sequence[int], turn_start_id: int | None) -> list[int]:
    """Return the ids of the assistant's turn so far, which a continued prompt ends with.

    The system prompt talks about ``<code>`` tags; only what follows the last turn marker counts.

    Args:
        prompt_ids: The engine's prompt.
        turn_start_id: Id of ``<|im_start|>``; None where the tokenizer has none.
    """
    backwards = prompt_ids[::-1]
    if turn_start_id not in backwards:
        return []
    length = backwards.index(turn_start_id)
    return list(prompt_ids[len(prompt_ids) - length :])
