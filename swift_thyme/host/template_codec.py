"""A model's tokens through an ms-swift template: lengths, texts, and the ids of an observation.

Training and inference use the same codec, so their trajectories hold the same ids.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from PIL import Image

from swift_thyme.core.codec import EncodedObservation
from swift_thyme.core.images import data_uri
from swift_thyme.core.observation import Observation
from swift_thyme.core.placeholders import VISION_END, VISION_START
from swift_thyme.core.protocol import IMAGE_TAG

__all__ = ["TemplateCodec"]


class TemplateCodec:
    """Tokens of one trajectory through an ms-swift template of the Qwen2-VL family.

    Args:
        template: A template with a ready processor.
        messages: The prompt's messages.
        images: The prompt's images as ms-swift gives them.
    """

    def __init__(self, template: Any, messages: list[dict[str, Any]], images: list[Any]) -> None:
        self._tokenizer = template.tokenizer
        # In the `vllm` mode encoding resizes images but computes no pixel values: exact lengths
        # at the price of a resize.
        self._template = copy.copy(template)
        self._template.mode = "vllm"
        self._template.max_length = None
        self._messages = messages
        self._images = images
        self.image_ids: list[int] = [
            self._tokenizer.convert_tokens_to_ids(VISION_START),
            template.image_token_id,
            self._tokenizer.convert_tokens_to_ids(VISION_END),
        ]
        """Ids of one image, with ONE placeholder."""
        suffix = template.template_meta.suffix
        self._end_ids = {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        for part in suffix if isinstance(suffix, list) else []:
            if isinstance(part, str):
                self._end_ids.update(self._tokenizer.encode(part, add_special_tokens=False)[:1])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def is_end_of_text(self, token_id: int) -> bool:
        """Tell whether the id is the end-of-text id or starts the template's suffix."""
        return token_id in self._end_ids

    def prompt_length(self) -> int:
        """Return the prompt's length in tokens, images expanded."""
        encoded = self._template.encode({"messages": self._messages, "images": list(self._images)})
        return len(encoded["input_ids"]) + self._visual_surplus(encoded.get("images") or [])

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of text that is neither sampled nor an observation; it holds no image."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        """Return the ids of an observation; pieces between images are tokenised one by one.

        ms-swift splits the text of a training row at ``<image>`` in the same way, so supervised
        rows and rollouts hold the same ids.
        """
        pieces = observation.text.split(IMAGE_TAG)
        if len(pieces) != len(observation.images) + 1:
            raise AssertionError("an observation has one <image> tag per image")
        token_ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index:
                token_ids.extend(self.image_ids)
            token_ids.extend(self.encode_text(piece))
        surplus = 0
        for image in observation.images:
            row = {
                "messages": [{"role": "user", "content": IMAGE_TAG}],
                "images": [data_uri(image.data)],
            }
            surplus += self._visual_surplus(self._template.encode(row)["images"])
        return EncodedObservation(token_ids, len(token_ids) + surplus)

    def _visual_surplus(self, images: Sequence[Image.Image]) -> int:
        """Return how many tokens more than one placeholder each the resized images take."""
        processor = self._template.processor.image_processor
        side = processor.patch_size * processor.merge_size
        return sum((image.width // side) * (image.height // side) - 1 for image in images)
