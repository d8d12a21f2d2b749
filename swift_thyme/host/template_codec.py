"""A model's tokens through an ms-swift template: lengths, texts, and the ids of an observation.

Training and inference use the same codec, so their trajectories hold the same ids.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from swift_thyme.core.codec import EncodedObservation
from swift_thyme.core.images import data_uri
from swift_thyme.core.observation import Observation
from swift_thyme.core.protocol import IMAGE_TAG, PROTOCOL_TAGS
from swift_thyme.host.image_tokens import image_tokens, keeps_placeholders

__all__ = ["TemplateCodec"]

_NOTHING = re.compile(r"(?!)")


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return the pattern of the special tokens that text could spell."""
    texts = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and token.content not in PROTOCOL_TAGS
    ]
    return re.compile("|".join(map(re.escape, sorted(texts, reverse=True)))) if texts else _NOTHING


class TemplateCodec:
    """Tokens of one trajectory through an ms-swift template.

    Args:
        template: A template with a ready processor.
        messages: The prompt's messages.
        images: The prompt's images as ms-swift gives them.
    """

    def __init__(self, template: Any, messages: list[dict[str, Any]], images: list[Any]) -> None:
        self._tokenizer = template.tokenizer
        # In the `vllm` mode encoding resizes images but computes no pixel values: in the Qwen2-VL
        # family that is enough for exact lengths, at the price of a resize.
        self._template = copy.copy(template)
        self._template.mode = "vllm"
        self._template.max_length = None
        self._messages = messages
        self._images = images
        self._no_image: int | None = None
        self._counts_resized = keeps_placeholders(template)
        self._image = image_tokens(template)
        self.image_ids: list[int] = list(self._image.token_ids)
        """Ids of one image, with ONE placeholder."""
        self._special = _special_tokens(self._tokenizer)
        suffix = template.template_meta.suffix
        self._end_ids = {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        for part in suffix if isinstance(suffix, list) else []:
            if isinstance(part, str):
                self._end_ids.update(self._tokenizer.encode(part, add_special_tokens=False)[:1])
        for word in template.template_meta.stop_words:
            ids = word if isinstance(word, list) else self.encode_text(word)
            if len(ids) == 1:
                self._end_ids.update(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def is_end_of_text(self, token_id: int) -> bool:
        """Tell whether the id is the end-of-text id or starts the template's suffix."""
        return token_id in self._end_ids

    def prompt_length(self) -> int:
        """Return the prompt's length in tokens, images expanded."""
        row = {"messages": self._messages, "images": list(self._images)}
        if not self._counts_resized:
            return self._expanded_length(row)
        encoded = self._template.encode(row)
        return len(encoded["input_ids"]) + self._resized_surplus(encoded.get("images") or [])

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
            token_ids.extend(self.encode_text(self._harmless(piece)))
        surplus = sum(self._surplus(data_uri(image.data)) for image in observation.images)
        return EncodedObservation(token_ids, len(token_ids) + surplus)

    def _harmless(self, text: str) -> str:
        """Return text in which no special token of the model is spelled, but the protocol's tags.

        :func:`~swift_thyme.core.observation.render_observation` knows what all families share.
        """
        return self._special.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", text)

    def _surplus(self, image: Any) -> int:
        """Return how many tokens more than its ids an image of an observation takes."""
        row = {"messages": [{"role": "user", "content": IMAGE_TAG}], "images": [image]}
        if self._counts_resized:
            return self._resized_surplus(self._template.encode(row)["images"])
        if self._no_image is None:
            empty = {"messages": [{"role": "user", "content": ""}]}
            self._no_image = self._expanded_length(empty)
        return self._expanded_length(row) - self._no_image - len(self.image_ids)

    def _resized_surplus(self, images: Sequence[Image.Image]) -> int:
        """Return how many tokens more than one placeholder each the resized images take."""
        processor = self._template.processor.image_processor
        side = processor.patch_size * processor.merge_size
        return sum((image.width // side) * (image.height // side) - 1 for image in images)

    def _expanded_length(self, row: dict[str, Any]) -> int:
        """Return the length of a row as the model of transformers takes it."""
        template = copy.copy(self._template)
        template.mode = "transformers"
        return len(template.encode(row)["input_ids"])
