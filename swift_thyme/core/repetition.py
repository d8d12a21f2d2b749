"""Does the tail of a generation repeat itself? One engine-free rule for all who sample or count.

A generation is *evidently* looping when its last tokens are :data:`COPIES` or more exact copies of
one block, the block is at most :data:`MAX_PERIOD` tokens long, and the copies together are at least
:data:`LEAST_TOKENS` tokens long. Separator lines, tables and generated stubs in ordinary files stay
below that (docs/sampling.md has the counts).

The rule is looked at each :data:`CHECK_EVERY` tokens from the generation's beginning. Whoever
looks at the same tokens finds the same end, so the engine that stops and the trajectory that counts
need not talk to each other. The paper stops when more than half of the text is repeated (Thyme
sec. 4); a bound in tokens also ends a loop that begins late in a long text.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CHECK_EVERY",
    "COPIES",
    "LEAST_TOKENS",
    "MAX_PERIOD",
    "RepetitionWatch",
    "repetition_end",
]

COPIES = 5
"""Exact copies of the block, one after the other."""

LEAST_TOKENS = 512
"""Tokens that the copies are long together."""

MAX_PERIOD = 400
"""Tokens of the longest block that is looked for."""

CHECK_EVERY = 32
"""Tokens between two looks."""

_WINDOW = COPIES * MAX_PERIOD
# In a run of period p, the last (run - p) tokens also stand p tokens earlier. For the shortest
# evident run of every period that is at least this many, whatever the period.
_NEEDLE = LEAST_TOKENS * (COPIES - 1) // COPIES


class RepetitionWatch:
    """Looks at one generation, :data:`CHECK_EVERY` tokens at a time; bounded time per look."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        # One character per token: searching and comparing then run in C.
        self._tail = ""

    def push(self, token_ids: Sequence[int]) -> bool:
        """Take the next :data:`CHECK_EVERY` tokens and tell whether a loop is evident now."""
        self._tail = (self._tail + "".join(map(chr, token_ids)))[-_WINDOW:]
        return _is_evident(self._tail)


def _is_evident(tail: str) -> bool:
    length = len(tail)
    if length < LEAST_TOKENS:
        return False
    needle = tail[-_NEEDLE:]
    begin = max(0, length - _NEEDLE - MAX_PERIOD)
    position = tail.rfind(needle, begin, length - 1)
    while position >= 0:
        period = length - _NEEDLE - position
        run = max(COPIES * period, LEAST_TOKENS)
        if run <= length and tail[-run:-period] == tail[period - run :]:
            return True
        position = tail.rfind(needle, begin, position + _NEEDLE - 1)
    return False


def repetition_end(token_ids: Sequence[int]) -> int | None:
    """Return after how many tokens a loop was evident, None where none was.

    Args:
        token_ids: One generation (the sampled ids of one turn), from its beginning.
    """
    watch = RepetitionWatch()
    for end in range(CHECK_EVERY, len(token_ids) + 1, CHECK_EVERY):
        if watch.push(token_ids[end - CHECK_EVERY : end]):
            return end
    return None
