"""ms-swift's own rewards of length and repetition, told what the model wrote and nothing else.

``soft_overlong`` and ``cosine`` count the ids of a completion, ``repetition`` its words. What the
sandbox said is among both, so a long output would be punished as the model's own, and a block that
prints the same line often as a repetition. The three are replaced in ms-swift's table by classes
derived from them that see the completion without its observations. Where another scheduler recorded
no blocks, they see what they always saw.

Not covered: rewards of a user that read ``response_token_ids``. Those find the length in
``rollout_infos["thyme_sampled_tokens"]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.rewards import ORM, orms  # noqa: TID253 - this module is an ms-swift adapter

from swift_thyme.core.protocol import CODE_CLOSE
from swift_thyme.core.reading import SpanKind, read
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.summary import TrajectorySummary

__all__ = ["LENGTH_REWARDS", "add_length_rewards", "own_ids", "own_text"]

LENGTH_REWARDS = ("soft_overlong", "cosine", "repetition")
"""Rewards of ms-swift that measure a completion, by their name in its table."""

_MARK = "_thyme_own_text"


def own_ids(ids: Sequence[Any], summary: TrajectorySummary | None) -> list[int]:
    """Return the ids that the model sampled, in order.

    Args:
        ids: Ids of the completion, flat or one list per message of the assistant.
        summary: The record of the trajectory; None leaves all ids in.
    """
    flat: list[int] = []
    for item in ids:
        if isinstance(item, int):
            flat.append(item)
        else:
            flat.extend(item)
    entered = [block for block in summary.blocks if block.entered] if summary else []
    if not summary or not entered:
        return flat
    n_observed = sum(block.n_ids for block in entered)
    # A response prefix stands in front and is counted by no block. The rest of a tag that ended
    # inside a token is one id that was not sampled.
    counted = summary.sampled_tokens + n_observed + summary.boundary_repairs
    prefix = max(len(flat) - counted, 0)
    kept, position = [], 0
    for block in entered:
        start = prefix + block.offset
        kept += flat[position:start]
        position = start + block.n_ids
    return kept + flat[position:]


def own_text(completion: str, summary: TrajectorySummary | None) -> str:
    """Return a completion without the outputs that the sandbox wrote into it.

    Args:
        completion: The whole text.
        summary: The record of the trajectory; None leaves all text in. An output that the model
            wrote itself stays: the sandbox's stand directly behind a ``</code>``.
    """
    left = sum(block.entered for block in summary.blocks) if summary else 0
    if not left:
        return completion
    reading = read(completion)
    ends_of_code = {tag.end for tag in reading.tags if tag.text == CODE_CLOSE}
    texts = []
    for span in reading.spans:
        if span.kind is SpanKind.OUTPUT and span.start in ends_of_code and left:
            left -= 1
        else:
            texts.append(completion[span.start : span.end])
    return "".join(texts)


def _summaries(
    columns: Mapping[str, Any], n_completions: int
) -> Sequence[TrajectorySummary | None]:
    infos = columns.get("rollout_infos")
    return [read_infos(i) for i in infos] if infos else [None] * n_completions


def _measuring_own(base: type[ORM]) -> type[ORM]:
    """Return a reward like ms-swift's that sees what the model wrote alone."""
    is_of_text = base is orms["repetition"]

    def call(self: Any, completions: Sequence[str], **columns: Any) -> Any:
        summaries = _summaries(columns, len(completions))
        if is_of_text:
            completions = [own_text(c, s) for c, s in zip(completions, summaries, strict=True)]
        elif columns.get("response_token_ids"):
            columns["response_token_ids"] = [
                own_ids(ids, s)
                for ids, s in zip(columns["response_token_ids"], summaries, strict=True)
            ]
        return base.__call__(self, completions, **columns)

    # ms-swift names the metrics of a reward after its class.
    return type(base.__name__, (base,), {"__call__": call, "__doc__": base.__doc__, _MARK: True})


def add_length_rewards() -> None:
    """Put the three rewards in the place of ms-swift's (again is harmless)."""
    replaced = {
        name: _measuring_own(orms[name])
        for name in LENGTH_REWARDS
        if not getattr(orms[name], _MARK, False)
    }
    orms.update(replaced)
