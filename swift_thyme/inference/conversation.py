"""A conversation with a local model: token ids and images, encoded by ms-swift's template.

The prompt is encoded once; a turn is appended as the ids that were sampled, an observation as the
ids that :class:`~swift_thyme.host.template_codec.TemplateCodec` makes in training. Images are
kept as the engine wants them: in Qwen's families the template resizes each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swift_thyme.core.errors import DataError
from swift_thyme.host.image_tokens import engine_ids
from swift_thyme.host.response_prefix import prefix_of
from swift_thyme.host.template_codec import TemplateCodec

if TYPE_CHECKING:
    from PIL import Image

    from swift_thyme.core.codec import EncodedObservation
    from swift_thyme.core.trajectory import TurnOutcome
    from swift_thyme.inference.task import Task
    from swift_thyme.sandbox import Observation

__all__ = ["ConversationCodec", "ConversationState"]


class ConversationCodec(TemplateCodec):
    """The codec of training, which also keeps what it encoded.

    Args:
        template: A template with a ready processor.
        task: The prompt.

    Raises:
        DataError: The template cannot encode the prompt.
    """

    def __init__(self, template: Any, task: Task) -> None:
        images = [{"bytes": image.data, "path": None} for image in task.images]
        super().__init__(template, task.messages, images)
        try:
            encoded = self._template.encode({"messages": task.messages, "images": images})
        except (ValueError, OSError) as error:
            raise DataError(f"the prompt cannot be encoded: {error}") from error
        self.prompt_ids: list[int] = list(encoded["input_ids"])
        """Ids of the prompt with ONE placeholder per image, up to the first that is sampled."""
        self.prefix = prefix_of(template)
        """What the template put at the end of the prompt; the assistant's turn begins with it."""
        self.prompt_images: list[Image.Image] = list(encoded.get("images") or [])
        """Its images, in Qwen's families resized as the model sees them."""
        self.processor_kwargs: dict[str, Any] = dict(encoded.get("mm_processor_kwargs") or {})
        self.observation_images: list[Image.Image] = []
        """Those of the latest observation, in the same way."""
        self.observation_length = 0
        """Its length in tokens, images expanded."""
        self.image_text = self.decode(self.image_ids)
        """What the ids of one image decode to."""
        self._collect = False
        self._prompt_length = super().prompt_length()

    def engine_ids(self, token_ids: Sequence[int]) -> list[int]:
        """Return ids of the assistant's turn in which images are written as vLLM expects them."""
        return engine_ids(self._template, self._image, token_ids)

    def prompt_length(self) -> int:
        """Return the prompt's length in tokens, images expanded."""
        return self._prompt_length

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        """Return the ids of an observation and keep its images."""
        self.observation_images = []
        self._collect = True
        try:
            encoded = super().encode_observation(observation)
        finally:
            self._collect = False
        self.observation_length = encoded.expanded_length
        return encoded

    def _surplus(self, image: Any) -> int:
        if self._collect and not self._counts_resized:
            self.observation_images.append(self._template._load_image(image, True))
        return super()._surplus(image)

    def _resized_surplus(self, images: Sequence[Image.Image]) -> int:
        if self._collect:
            self.observation_images.extend(images)
        return super()._resized_surplus(images)


class ConversationState:
    """The ids and images of one trajectory so far.

    Args:
        template: A template with a ready processor.
        task: The prompt.
    """

    counts_tokens = True

    def __init__(self, template: Any, task: Task) -> None:
        self.codec = ConversationCodec(template, task)
        self._sampled_ids: list[int] = []
        self.images = list(self.codec.prompt_images)
        """All images in order, as the engine takes them."""
        self._length = self.codec.prompt_length()

    @property
    def length(self) -> int:
        """Prompt and turn so far in tokens, images expanded."""
        return self._length

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt in tokens, images expanded."""
        return self.codec.prompt_length()

    @property
    def opening(self) -> str:
        """What the template put in front of the turn, as text."""
        return self.codec.prefix.text

    @property
    def turn_ids(self) -> list[int]:
        """The assistant's turn so far, from the template's prefix on."""
        return [*self.codec.prefix.token_ids, *self._sampled_ids]

    @property
    def engine_ids(self) -> list[int]:
        """Prompt and turn so far as vLLM takes them, ONE placeholder per image."""
        return [*self.codec.prompt_ids, *self.codec.engine_ids(self._sampled_ids)]

    def extend(self, token_ids: Sequence[int], outcome: TurnOutcome) -> None:
        """Append a turn and what follows it."""
        self._sampled_ids.extend(token_ids[: outcome.kept])
        self._sampled_ids.extend(outcome.appended_ids)
        self._length += outcome.kept + len(outcome.closing_ids)
        if outcome.observation_ids:
            self.images.extend(self.codec.observation_images)
            self._length += self.codec.observation_length
