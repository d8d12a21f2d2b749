"""What a trajectory starts from: a question, its images, and the prompt made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from swift_thyme.core.protocol import build_text_prompt, build_user_prompt
from swift_thyme.inference.prompt_images import PromptImage

__all__ = ["Task", "default_system_prompt", "make_task", "plain_text"]

# Placeholders of ms-swift's templates, and special tokens of the model.
_MARKUP = re.compile(
    r"<(?=(?:image|video|audio|bbox|ref-object|cot-process|start-image)>|\|)", re.IGNORECASE
)


def plain_text(text: str) -> str:
    """Return a question in which nothing can be taken for an image or a special token."""
    return _MARKUP.sub("&lt;", text)


@dataclass(frozen=True, slots=True)
class Task:
    """The start of one trajectory."""

    id: str
    """Names the trajectory in logs and seeds its sampling."""
    question: str
    prompt: str
    """The user's message, with one ``<image>`` tag for each image."""
    images: tuple[PromptImage, ...] = ()
    system: str | None = None
    history: tuple[Mapping[str, str], ...] = ()
    """Earlier messages (``role``, ``content``); their images come first in ``images``."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt as chat messages."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages += [dict(message) for message in self.history]
        return [*messages, {"role": "user", "content": self.prompt}]


@cache
def default_system_prompt() -> str:
    """Return the system prompt of ``scripts/prompt.txt``, without its final line break."""
    package = files("swift_thyme.core")
    return package.joinpath("system_prompt.txt").read_text("utf-8").strip()


def make_task(
    question: str,
    images: Sequence[PromptImage] = (),
    *,
    system: str | None = None,
    task_id: str = "0",
) -> Task:
    """Return the task for a question in the published prompt format.

    Args:
        question: The question, without image tags.
        images: The images, in order.
        system: The system prompt; None or empty leaves it out.
        task_id: See :attr:`Task.id`.
    """
    question = plain_text(question)
    if images:
        first, *others = images
        prompt = build_user_prompt(
            question,
            first.path,
            (first.width, first.height),
            [(image.path, (image.width, image.height)) for image in others],
        )
    else:
        prompt = build_text_prompt(question)
    return Task(task_id, question, prompt, tuple(images), system or None)
