"""Tokens of Qwen's vision-language models that stand for images, or begin and end a message.

The one place that spells them. A returned image is :data:`IMAGE_TOKENS` in the ids of a rollout and
``<image>`` in every text of this project.
"""

from __future__ import annotations

import re

from swift_thyme.core.protocol import IMAGE_TAG

__all__ = [
    "CONTROL_TOKEN",
    "IMAGE_PAD",
    "IMAGE_TOKENS",
    "PLACEHOLDER_TOKENS",
    "TURN_END",
    "TURN_START",
    "VIDEO_PAD",
    "VISION_END",
    "VISION_START",
    "show_images",
]

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"

IMAGE_TOKENS = f"{VISION_START}{IMAGE_PAD}{VISION_END}"
"""One image of an observation, before its placeholder is expanded."""

PLACEHOLDER_TOKENS = (VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD)
"""Tokens that stand for visual input. A model that samples one has no image behind it, and the
batch that trains on it stops with a count mismatch, so sampling them is ruled out."""

CONTROL_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|vision_pad|image_pad|video_pad"
    r"|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end)\|>"
)
"""A control token of the models, written out in a text."""

# ms-swift's logs write an expanded image as `<|placeholder * n|>`.
_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|(?:image|placeholder)[^|]*\|>)*<\|vision_end\|>")


def show_images(text: str) -> str:
    """Return decoded text with ``<image>`` for the tokens of each image, expanded or not."""
    return _IMAGE.sub(IMAGE_TAG, text)
