"""Is the next token inside ``<code>``? An incremental, engine-free state machine.

GRPO-ATS samples text at temperature 1 and code at temperature 0 (Thyme sec. 4). The switch has to
be decided token by token while a tokenizer splits the tags anywhere, so the machine works on the
characters that tokens stand for and keeps only the few that a tag may have begun with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from swift_thyme.core.reading import TagScanner, begins_tag, find_tags

__all__ = ["CodeSpan", "TokenTexts", "assistant_turn"]


class TokenTexts:
    """Texts of single tokens, remembered.

    Args:
        decode: Returns the text of a list of ids, special tokens included.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._texts: dict[int, str] = {}
        self.plain: set[int] = set()
        """Ids seen so far whose text cannot begin a tag: most of a vocabulary."""

    def __getitem__(self, token_id: int) -> str:
        """Return the text of one token."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._decode([token_id])
            if not find_tags(text) and not begins_tag(text):
                self.plain.add(token_id)
        return text


class CodeSpan:
    """Tells whether the next token of one sequence is inside a code block.

    It reads with the scanner of :mod:`swift_thyme.core.reading`, as everything else does that asks
    for the code of a completion. Constant time per token.
    """

    __slots__ = ("_scanner",)

    def __init__(self) -> None:
        self._scanner = TagScanner()

    @property
    def inside(self) -> bool:
        """Whether the next token is inside a code block."""
        return self._scanner.in_code

    @property
    def unfinished(self) -> str:
        """Characters with which a tag may have begun."""
        return self._scanner.unfinished

    def push(self, text: str) -> None:
        """Take the text of one token."""
        self._scanner.push(text)

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


def assistant_turn(prompt_ids: Sequence[int], turn_starts: Collection[int]) -> list[int]:
    """Return the ids of the assistant's turn so far, which a continued prompt ends with.

    The system prompt talks about ``<code>`` tags; only what follows the last turn marker counts.

    Args:
        prompt_ids: The engine's prompt.
        turn_starts: Ids of turn markers; empty where the tokenizer has none.
    """
    for end in range(len(prompt_ids), 0, -1):
        if prompt_ids[end - 1] in turn_starts:
            return list(prompt_ids[end:])
    return []
