"""The ways in which an item is asked: with the tool, plainly, or with the tool refused.

The first two are what is compared in the published tables: a model that may run code, and a model
that is asked the question alone. The third invites code and refuses it. It tells how much a model
leans on its tool, and is no baseline: one that always writes code answers nothing there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from enum import Enum

from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.core.summary import EndReason
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings
from swift_thyme.inference.prompt_images import PromptImage
from swift_thyme.inference.task import Task, make_task, plain_text

__all__ = ["BASELINES", "OWN", "PLAIN_REPLY", "TITLES", "Arm", "answer_of", "loop_of", "task_of"]

PLAIN_REPLY = "Reply with the answer alone."
"""Last line of a plain prompt: rules read a short answer, and only a judge reads an essay."""

_THOUGHT_END = re.compile(r"</think>", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>", re.IGNORECASE)


class Arm(str, Enum):
    """One way to ask; the order is that of the tables."""

    TOOLS = "tools"
    """The prompt of the recipe; code runs."""
    BASE = "base"
    """Another model, asked as in ``PLAIN``; its replies are read from its own folder."""
    PLAIN = "plain"
    """The question alone, without a system prompt; nothing mentions code."""
    NO_TOOLS = "no-tools"
    """The prompt of the recipe; each code block gives a fixed error."""


OWN = (Arm.TOOLS, Arm.PLAIN, Arm.NO_TOOLS)
"""The arms that a model is run in."""
BASELINES = (Arm.BASE, Arm.PLAIN, Arm.NO_TOOLS)
"""What the tool's effect is measured against."""

TITLES = {
    Arm.TOOLS: "with the tool",
    Arm.BASE: "base model",
    Arm.PLAIN: "plain prompt",
    Arm.NO_TOOLS: "tool refused",
}


def task_of(
    arm: Arm, question: str, images: Sequence[PromptImage], *, system: str, task_id: str
) -> Task:
    """Return the prompt in which an arm asks a question.

    Args:
        arm: The way to ask.
        question: The question, its options included.
        images: The images, in order.
        system: The system prompt of the recipe; a plain prompt has none of ours.
        task_id: Seeds the sampling; the same for all arms, so that they draw the same numbers.
    """
    if arm is not Arm.PLAIN:
        return make_task(question, images, system=system, task_id=task_id)
    question = plain_text(question)
    prompt = f"{IMAGE_TAG}\n" * len(images) + f"{question}\n{PLAIN_REPLY}"
    return Task(task_id, question, prompt, tuple(images))


def loop_of(arm: Arm, settings: LoopSettings) -> LoopSettings:
    """Return how an arm runs; a plain prompt has one turn, and what it writes is not run."""
    if arm is Arm.PLAIN:
        return dataclasses.replace(settings, tools=False, max_turns=1)
    return dataclasses.replace(settings, tools=arm is Arm.TOOLS)


def answer_of(arm: Arm, finished: FinishedTrajectory) -> str | None:
    """Return the answer of a trajectory; None where it has none.

    The reply to a plain prompt is the answer, without a thought before it. One that was cut off, or
    that stops for code to be run, is none. An answer block counts there too.
    """
    if arm is not Arm.PLAIN or finished.answer is not None:
        return finished.answer
    if finished.summary.end_reason is not EndReason.END_OF_TEXT:
        return None
    *thoughts, reply = _THOUGHT_END.split(finished.completion)
    if not thoughts and _THOUGHT.search(reply):
        return None
    return reply.strip() or None
