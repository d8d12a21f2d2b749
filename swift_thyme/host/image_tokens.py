"""What stands for a returned image among a model's token ids, in any template of ms-swift.

In the ids of a rollout an image is a short, fixed sequence. Two kinds of templates exist:

* Those of the Qwen2-VL family keep it as it is: begin, placeholder, end. Their ``_encode`` expands
  the placeholder; see :mod:`swift_thyme.host.template_images`.
* In every other template it is one id, which stands for the tag ``<image>``. The template's own
  ``replace_tag`` writes what belongs there: it differs from engine to engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.placeholders import VISION_END, VISION_START, is_placeholder
from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.sampling.tokens import HookTokens

__all__ = [
    "ImageTokens",
    "engine_ids",
    "hook_tokens",
    "image_tokens",
    "keeps_placeholders",
    "show_text",
]

_NAMES = ("image_token_id", "image_token_index", "media_placeholder_token_id")
"""Names under which templates, configurations and processors keep the id."""


class ImageTokens(NamedTuple):
    """One image among token ids."""

    token_ids: tuple[int, ...]
    """All of its ids, with ONE placeholder."""
    placeholder: int


def keeps_placeholders(template: Any) -> bool:
    """Tell whether a template is of the Qwen2-VL family, whose ids hold the engine's placeholder.

    Omni models inherit from it, but write other tags around a picture.
    """
    from swift.template.templates.qwen import Qwen2_5OmniTemplate, Qwen2VLTemplate

    family = isinstance(template, Qwen2VLTemplate)
    return family and not isinstance(template, Qwen2_5OmniTemplate)


def image_tokens(template: Any) -> ImageTokens:
    """Return the ids of one returned image.

    Args:
        template: An ms-swift template with a ready processor.

    Raises:
        SettingsError: The model has no token that stands for an image.
    """
    if keeps_placeholders(template):
        find = template.tokenizer.convert_tokens_to_ids
        token_id = template.image_token_id
        return ImageTokens((find(VISION_START), token_id, find(VISION_END)), token_id)
    token_id = next(_candidates(template), None)
    if token_id is None:
        raise SettingsError(
            f"--template {template.template_meta.template_type}: the model has no token that "
            "stands for an image, so code cannot return one; see docs/families.md"
        )
    return ImageTokens((token_id,), token_id)


def _candidates(template: Any) -> Iterator[int]:
    """Yield ids that may stand for an image, the likeliest first."""
    config = template.config
    holders = (template, config, getattr(config, "thinker_config", None), template.processor)
    for holder in holders:
        for name in _NAMES:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                yield value
    tokenizer = template.tokenizer
    token = getattr(template.processor, "image_token", None)
    if isinstance(token, str) and token in tokenizer.get_vocab():
        yield tokenizer.convert_tokens_to_ids(token)
    # A template that expands text alone needs no placeholder: any of the model's will do.
    for text, token_id in tokenizer.get_added_vocab().items():
        if is_placeholder(text):
            yield token_id


def hook_tokens(template: Any) -> HookTokens:
    """Return what the sampling hook needs to know of a template's model."""
    return HookTokens.from_tokenizer(template.tokenizer, template.config.to_dict())


def show_text(template: Any, token_ids: Sequence[int]) -> str:
    """Return the text of ids, special tokens included, with ``<image>`` for each image."""
    decode = template.tokenizer.decode
    text = str(decode(list(token_ids), skip_special_tokens=False))
    image = decode(list(image_tokens(template).token_ids), skip_special_tokens=False)
    return text.replace(image, IMAGE_TAG)


def engine_ids(template: Any, tokens: ImageTokens, token_ids: Sequence[int]) -> list[int]:
    """Return ids in which each image is written as vLLM expects it.

    Args:
        template: A template in the mode ``vllm``.
        tokens: Its image.
        token_ids: Ids of an assistant's turn.
    """
    if keeps_placeholders(template) or tokens.placeholder not in token_ids:
        return list(token_ids)
    image: list[int] = []
    # Some templates resize the picture here; which one it is makes no difference to the ids.
    row = SimpleNamespace(
        images=[Image.new("RGB", (64, 64))], chat_template_kwargs={}, mm_processor_kwargs={}
    )
    for context in template.replace_tag("image", 0, row):
        image += template._tokenize(context) if isinstance(context, str) else context
    ids: list[int] = []
    for token_id in token_ids:
        ids.extend(image if token_id == tokens.placeholder else (token_id,))
    return ids
