"""One sequence that is being sampled: what its ids say about its next token. No engine in it."""

from __future__ import annotations

from collections.abc import Sequence

from swift_thyme.core.repetition import CHECK_EVERY, RepetitionWatch
from swift_thyme.sampling.code_span import CodeSpan, TokenTexts

__all__ = ["SampledRow"]


class SampledRow:
    """Follows the sampled ids of one sequence.

    Args:
        texts: Texts of the model's tokens.
        turn_ids: Ids of the assistant's turn that the prompt ends with.
        follow_code: Whether :attr:`inside_code` is wanted.
        watch_repetition: Whether :attr:`looping` is wanted.
    """

    __slots__ = ("_seen", "_span", "_texts", "_watch", "looping")

    def __init__(
        self,
        texts: TokenTexts,
        turn_ids: Sequence[int],
        *,
        follow_code: bool = True,
        watch_repetition: bool = True,
    ) -> None:
        self.looping = False
        """Whether the generation evidently loops and has to end now."""
        self._texts = texts
        self._span = CodeSpan() if follow_code else None
        if self._span is not None:
            self._span.push_ids(texts, turn_ids)
        self._watch = RepetitionWatch() if watch_repetition else None
        self._seen = 0

    @property
    def inside_code(self) -> bool:
        """Whether the next token is inside a code block."""
        return self._span is not None and self._span.inside

    def advance(self, token_ids: Sequence[int]) -> None:
        """Take the ids sampled so far, of which the first ones are known from the last call.

        Args:
            token_ids: All sampled ids; one below 0 is not known yet, nor are those behind it.
        """
        seen, length = self._seen, len(token_ids)
        span, plain = self._span, self._texts.plain
        while seen < length:
            token_id = token_ids[seen]
            if token_id < 0:
                break
            if span is not None and (token_id not in plain or span.unfinished):
                span.push(self._texts[token_id])
            seen += 1
            if seen % CHECK_EVERY == 0 and self._watch is not None and not self.looping:
                self.looping = self._watch.push(token_ids[seen - CHECK_EVERY : seen])
        self._seen = seen
