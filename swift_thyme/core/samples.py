"""From the columns that ms-swift hands to a reward function to one record per completion."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.core.reading import Reading, read
from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.summary import TrajectorySummary

__all__ = ["Sample", "read_samples"]

_PROMPT_TAIL = re.compile(r"\n[^\n]*\bUser Image Path\b.*\Z", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """One completion and what it is scored against."""

    completion: str
    """What was generated, sandbox outputs included."""
    question: str = ""
    """The question without image tags and prompt boilerplate; empty where the row has none."""
    references: tuple[str, ...] = ()
    """Accepted answers; empty where the row has no solution."""
    images: tuple[Any, ...] = ()
    """The row's images, then those that the sandbox returned, in ms-swift's forms."""
    rollout: TrajectorySummary | None = None
    """What the scheduler recorded in ``rollout_infos``; None where it recorded nothing."""

    @cached_property
    def reading(self) -> Reading:
        """What the completion says."""
        return read(self.completion)

    @property
    def answer(self) -> str | None:
        """The text of the last answer block; what code or its output holds does not count."""
        return self.reading.answer

    @property
    def reasoning(self) -> str:
        """The thinking without code and sandbox outputs."""
        return self.reading.reasoning


def read_samples(completions: Sequence[Any], columns: Mapping[str, Any]) -> list[Sample]:
    """Return one sample per completion.

    Args:
        completions: Decoded completions.
        columns: Keyword arguments of the reward function; columns are lists aligned with
            ``completions`` whose entries may be None (ms-swift fills rows without a column).

    Raises:
        DataError: A completion is not text, or a solution is of a type that cannot be an answer.
    """
    samples = []
    for index, completion in enumerate(completions):
        if not isinstance(completion, str):
            kind = type(completion).__name__
            raise DataError(f"completion {index} of the batch is {kind}, not text")
        question = _cell(columns, "question", index)
        if not isinstance(question, str) or not question.strip():
            question = _last_user_text(_cell(columns, "messages", index))
        samples.append(
            Sample(
                completion=completion,
                question=_bare_question(question),
                references=_references(_cell(columns, "solution", index), index),
                images=_images(_cell(columns, "images", index)),
                rollout=read_infos(_cell(columns, "rollout_infos", index)),
            )
        )
    return samples


def _cell(columns: Mapping[str, Any], name: str, index: int) -> Any:
    column = columns.get(name)
    if not isinstance(column, Sequence) or isinstance(column, str) or index >= len(column):
        return None
    return column[index]


def _images(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _last_user_text(messages: Any) -> str:
    for message in reversed(messages or []):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return ""


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text", "")) for part in parts)


def _bare_question(text: str) -> str:
    text = text.replace(IMAGE_TAG, "").strip()
    return _PROMPT_TAIL.sub("", f"\n{text}").strip() or text


def _references(solution: Any, index: int) -> tuple[str, ...]:
    if solution is None:
        return ()
    if isinstance(solution, (list, tuple)):
        return tuple(x for item in solution for x in _references(item, index))
    if isinstance(solution, bool):
        return ("yes" if solution else "no", str(solution))
    if isinstance(solution, (int, float)):
        return (str(int(solution) if float(solution).is_integer() else solution),)
    if not isinstance(solution, str):
        kind = type(solution).__name__
        raise DataError(f"solution of row {index} of the batch is {kind}, not text")
    wrapped = read(solution).answers
    text = (wrapped[0].inner if wrapped and wrapped[0].closed else solution).strip()
    return (text,) if text else ()
