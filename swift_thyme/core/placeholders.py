"""Tokens of vision-language models that stand for images, or begin and end a message.

The one place that spells them. A returned image is a placeholder in the ids of a rollout
(:data:`IMAGE_TOKENS` in those of Qwen's models) and ``<image>`` in every text of this project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from swift_thyme.core.protocol import IMAGE_TAG

__all__ = [
    "ASSISTANT_STARTS",
    "CONTROL_TOKEN",
    "IMAGE_PAD",
    "IMAGE_TOKENS",
    "PLACEHOLDER_TOKENS",
    "TURN_END",
    "TURN_START",
    "VIDEO_PAD",
    "VISION_END",
    "VISION_START",
    "is_placeholder",
    "placeholder_ids",
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

ASSISTANT_STARTS = (
    TURN_START,
    *("<|assistant|>", "<start_of_turn>", "<|turn>", "<|im_assistant|>", "[/INST]"),
    *("<|start_header_id|>", "<|header_start|>", "<|Assistant|>", "<|start|>"),
    # With the wide bars of DeepSeek's and Tencent's tokens.
    *("<\uff5cAssistant\uff5c>", "<\uff5chy_User\uff5c>"),
)
"""Tokens of the families, the last of which in a prompt begins the assistant's turn."""

# A token for the eye or the ear, whatever the family: `<|image_pad|>`, `<IMG_CONTEXT>`,
# `<start_of_image>`, `<|audio|>`, `<|media_pad|>`, `<im_patch>`.
_PLACEHOLDER = re.compile(
    r"\A[<\[]\W*[\w|]*?(?:image|img|im_patch|patch|vision|visual|video|frame|audio|media|slice|tile)",
    re.IGNORECASE,
)
_ID_NAME = re.compile(
    r"\A(?:image|img|video|vision|visual|audio|media|frame|patch|bo[iav]|eo[iav])"
    r"\w*_(?:token_id|token_index|token_ids)\Z"
)

CONTROL_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|vision_start|vision_end|vision_pad|image_pad|video_pad"
    r"|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end)\|>"
)
"""A control token of the models, written out in a text."""

# ms-swift's logs write an expanded image as `<|placeholder * n|>`.
_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|(?:image|placeholder)[^|]*\|>)*<\|vision_end\|>")


def is_placeholder(token: str) -> bool:
    """Tell whether a special token stands for a picture, a film or a sound, or frames one."""
    return _PLACEHOLDER.match(token) is not None


def placeholder_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the ids that a model's configuration names as placeholders, at any depth.

    Args:
        config: What ``config.json`` says.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from placeholder_ids(value)
        elif _ID_NAME.match(str(name)):
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from (v for v in values if isinstance(v, int) and not isinstance(v, bool))


def show_images(text: str) -> str:
    """Return decoded text with ``<image>`` for the tokens of each image, expanded or not."""
    return _IMAGE.sub(IMAGE_TAG, text)
