"""The ms-swift template of the tiny model.

It differs from Qwen2.5-VL's in three ways: the ids of the image and video placeholders are those of
the tiny tokenizer, there is no default system prompt, and without ``--max_pixels`` an image is
shrunk to what the checkpoint's processor allows (ms-swift otherwise leaves the picture as large as
it is, and the plate could be read without the tool).
"""

from __future__ import annotations

from typing import Any

from swift.template import register_template  # noqa: TID253 - this file is an ms-swift adapter
from swift.template.templates.qwen import (  # noqa: TID253 - this file is an ms-swift adapter
    Qwen2_5VLTemplate,
    QwenTemplateMeta,
)

from swift_thyme.core.placeholders import IMAGE_PAD, VIDEO_PAD

__all__ = ["TEMPLATE_NAME", "TinyTemplate", "add_template"]

TEMPLATE_NAME = "thyme_tiny"
"""What ``--template`` takes."""


class TinyTemplate(Qwen2_5VLTemplate):  # type: ignore[misc]  # ms-swift has no type information
    """Qwen2.5-VL's template with the placeholder ids of the checkpoint that is loaded."""

    def init_processor(self, processor: Any) -> None:
        """Read the placeholder ids from the tokenizer, before anything uses them."""
        if processor is not None:
            tokenizer = processor.tokenizer
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
            self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_PAD)
        super().init_processor(processor)

    def _preprocess_inputs(self, inputs: Any) -> None:
        if self.max_pixels is None:
            size = self.processor.image_processor.size
            inputs.chat_template_kwargs.setdefault("min_pixels", size["shortest_edge"])
            inputs.chat_template_kwargs.setdefault("max_pixels", size["longest_edge"])
        super()._preprocess_inputs(inputs)


def add_template() -> None:
    """Make ``--template thyme_tiny`` known to ms-swift (again is harmless)."""
    register_template(
        QwenTemplateMeta(TEMPLATE_NAME, template_cls=TinyTemplate, default_system=None),
        exist_ok=True,
    )
