"""What a judge is asked: prompts filled with a sample, so that the sample cannot speak.

Threat model. Everything that a policy wrote may try to earn a reward by addressing the judge.

Covered: closing the delimiters (they carry a random code per request), placeholders of the prompt
inside the text (all are substituted in one pass), special tokens of chat templates (broken up, so
that no server reads them as a new turn), a ready-made verdict that a judge may quote (its key is
defused, and a reply with two verdicts is none), invisible characters, and text too long to leave
room for the task (cut).

Not covered: a judge that believes what it is told. The prompts tell it not to; nothing here can
make it obey.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.samples import Sample
from swift_thyme.rewards.judge_images import to_data_url
from swift_thyme.rewards.reward_settings import JudgeSettings

__all__ = [
    "JudgeQuestion",
    "ask_answer",
    "ask_answer_process",
    "ask_code",
    "ask_code_process",
    "ask_consistency",
    "defuse",
]

_PLACEHOLDER = re.compile(
    r"\{(question|reference|answer|reasoning|code|record|originals|made|nonce)\}"
)
_SEPARATOR = "\n=====\n"
_CHAT_TOKEN = re.compile(
    r"<(?=[|\uff5c]|/?(?:s|think|start_of_turn|end_of_turn|bos|eos)>)|\[(?=/?INST\])", re.IGNORECASE
)
_VERDICT = re.compile(r'("(?:correctness|consistency|score)"\s*):', re.IGNORECASE)
_CUT = " [...] "
_LONGEST_GIVEN = 8000
"""Longest question or reference that is shown, in characters; both come from the data set."""


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """One question to a judge."""

    prompt: str
    """Name of the prompt file, without ``.txt``."""
    verdict: str
    """Key of the verdict in the reply."""
    highest: int
    """Largest verdict; the score is the verdict divided by it."""
    fields: tuple[tuple[str, str], ...]
    """Values for the prompt's placeholders, by name."""
    images: tuple[str, ...] = ()
    """Data URLs of the images to show."""

    @property
    def key(self) -> Hashable:
        """Equal for questions with the same content."""
        return (self.prompt, self.fields, self.images)

    def messages(self) -> list[dict[str, Any]]:
        """Return chat messages for this question, with a fresh random code in the delimiters."""
        system, user = _fill(self.prompt, dict(self.fields) | {"nonce": secrets.token_hex(8)})
        content: Any = user
        if self.images:
            content = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
            content.append({"type": "text", "text": user})
        return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def defuse(text: str, longest: int, keep_end: bool = False) -> str:
    """Return a policy's text in a form that can only be read as data.

    Args:
        text: What the policy wrote.
        longest: Length limit in characters.
        keep_end: Whether the beginning is cut off instead of the middle.
    """
    text = "".join(
        c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs")
    )
    if len(text) > longest:
        head = 0 if keep_end else longest // 2
        text = text[:head] + _CUT + text[len(text) - (longest - head) :]
    # After the cut, which could put the two halves of a token together.
    text = _CHAT_TOKEN.sub(lambda m: f"{m.group(0)} ", text)
    return _VERDICT.sub(r"\1 is", text)


def ask_answer(sample: Sample, limits: JudgeSettings) -> JudgeQuestion:
    """Ask whether the answer means the same as the reference."""
    answer = defuse(sample.answer or "", limits.max_answer_chars)
    return JudgeQuestion("answer", "Correctness", 1, (*_given(sample), ("answer", answer)))


def ask_consistency(sample: Sample, limits: JudgeSettings) -> JudgeQuestion:
    """Ask whether the end of the reasoning arrives at the answer."""
    fields = (
        _given(sample)[0],
        ("reasoning", defuse(sample.reasoning, limits.max_reasoning_chars, keep_end=True)),
        ("answer", defuse(sample.answer or "", limits.max_answer_chars)),
    )
    return JudgeQuestion("consistency", "Consistency", 1, fields)


def ask_code(sample: Sample, limits: JudgeSettings) -> JudgeQuestion:
    """Ask whether the code does something useful correctly."""
    return JudgeQuestion("code", "Correctness", 1, (*_given(sample), *_code(sample, limits)))


def ask_answer_process(sample: Sample, limits: JudgeSettings) -> JudgeQuestion:
    """Ask for a grade of the reasoning."""
    fields = (
        *_given(sample),
        ("reasoning", defuse(sample.reasoning, limits.max_reasoning_chars)),
        ("answer", defuse(sample.answer or "", limits.max_answer_chars)),
    )
    return JudgeQuestion("answer_process", "Score", 4, fields)


def ask_code_process(sample: Sample, limits: JudgeSettings) -> JudgeQuestion | None:
    """Ask for a grade of the images that the code made; None where an image cannot be read.

    An unreadable image is our failure, not the model's, so there is nothing to ask then.
    """
    returned = sample.rollout.images if sample.rollout is not None else 0
    made = min(returned, len(sample.images))
    originals = len(sample.images) - made
    shown = (*sample.images[:originals][:1], *sample.images[originals:])[: limits.max_images]
    try:
        urls = tuple(to_data_url(image, limits.max_image_side) for image in shown)
    except DataError:
        return None
    counts = (
        ("originals", str(min(originals, 1))),
        ("made", str(max(0, len(urls) - min(originals, 1)))),
    )
    fields = (*_given(sample), *counts, *_code(sample, limits))
    return JudgeQuestion("code_process", "Score", 4, fields, urls)


def _given(sample: Sample) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the fields that come from the data set."""
    question = sample.question[:_LONGEST_GIVEN] or "(not given)"
    several = " / ".join(sample.references)[:_LONGEST_GIVEN]
    return ("question", question), ("reference", several or "(not given)")


def _code(sample: Sample, limits: JudgeSettings) -> tuple[tuple[str, str], tuple[str, str]]:
    joined = "\n\n# --- next block ---\n\n".join(sample.reading.programs)
    statuses = sample.rollout.statuses if sample.rollout is not None else []
    record = ", ".join(statuses) or "none"
    return ("code", defuse(joined, limits.max_reasoning_chars)), ("record", record)


@cache
def _template(name: str) -> str:
    return (
        files("swift_thyme.rewards").joinpath("prompts").joinpath(f"{name}.txt").read_text("utf-8")
    )


def _fill(name: str, values: Mapping[str, str]) -> tuple[str, str]:
    """Return the system and the user text of a prompt; every placeholder is replaced once.

    The parts are split before filling, so that no value can move the border between them.
    """
    system, user = _template(name).strip().split(_SEPARATOR)
    parts = [_PLACEHOLDER.sub(lambda m: values[m.group(1)], part) for part in (system, user)]
    # Half of a surrogate pair, from a data set, cannot be sent.
    clean = [part.encode("utf-8", "replace").decode("utf-8") for part in parts]
    return clean[0], clean[1]
