"""Images behind token ids: what ms-swift's templates need to accept them.

A multi-turn rollout in ms-swift is token-in-token-out: the assistant's turn so far is a list of
token ids. An image that the sandbox returned is ONE placeholder id in that list, followed by one
more entry in ``images``. Stock ms-swift 4.6 counts ``<image>`` tags in text only, so it would move
such an image to the front of the first user message and never load it.

Two methods of the base class are replaced, which no family of chat models overrides. The first
leaves those images to the second, which writes ``<image>`` in the place of each placeholder: from
there on the family's own ``replace_tag`` and ``_encode`` load, resize and expand it, in every mode.
In the Qwen2-VL family the ids hold what ``replace_tag`` would write, so it is called for the image
alone.

Stock ms-swift shows the model a picture as the sensor stored it, whatever its EXIF says. The last
function installed here turns it, as :mod:`swift_thyme.core.pictures` does for generated code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.pictures import upright
from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.host.image_tokens import image_tokens, keeps_placeholders

__all__ = ["count_token_images", "install_image_accounting", "install_upright_images"]


def count_token_images(messages: list[dict[str, Any]], image_token_id: int) -> int:
    """Count image placeholders in assistant messages that are given as token ids."""
    return sum(ids.count(image_token_id) for ids in _turns_of_ids(messages))


def _turns_of_ids(messages: list[dict[str, Any]]) -> list[list[int]]:
    """Return the assistant's turns that are given as token ids."""
    from swift.template.utils import get_token_backed_response_ids

    turns = (
        get_token_backed_response_ids(message["content"])
        for message in messages
        if message["role"] == "assistant"
    )
    return [ids for ids in turns if ids]


def _account_for_token_images(base: Callable[[Any], None], template: Any, inputs: Any) -> None:
    turns = _turns_of_ids(inputs.messages) if inputs.images else []
    n_token = 0
    if turns:
        placeholder = image_tokens(template).placeholder
        n_token = sum(ids.count(placeholder) for ids in turns)
    if not n_token:
        base(inputs)
        return
    n_text = len(inputs.images) - n_token
    if n_text < 0:
        raise DataError(
            f"the assistant's token ids hold {n_token} image placeholders, but the sample has "
            f"only {len(inputs.images)} images"
        )
    # In a trajectory every tag in text precedes the assistant's turn, so its images come first.
    images, inputs.images = inputs.images, inputs.images[:n_text]
    try:
        base(inputs)
    finally:
        inputs.images = images
    if keeps_placeholders(template):
        for index in range(n_text, len(images)):
            template.replace_tag("image", index, inputs)


def _with_tags(
    template: Any, contexts: Sequence[Any], weights: Sequence[float]
) -> tuple[list[Any], list[float]]:
    """Write ``<image>`` in the place of each placeholder.

    Args:
        template: The template.
        contexts: Texts, and lists of token ids.
        weights: The loss weight of each, which its pieces keep.
    """
    placeholder = image_tokens(template).placeholder
    pieces: list[Any] = []
    kept: list[float] = []
    for context, weight in zip(contexts, weights, strict=True):
        if not isinstance(context, list) or placeholder not in context:
            pieces.append(context)
            kept.append(weight)
            continue
        start = 0
        for at in (i for i, token_id in enumerate(context) if token_id == placeholder):
            found = [context[start:at], IMAGE_TAG]
            pieces += found if found[0] else found[1:]
            start = at + 1
        if start < len(context):
            pieces.append(context[start:])
        kept += [weight] * (len(pieces) - len(kept))
    return pieces, kept


def install_image_accounting() -> None:
    """Make ms-swift's templates find images behind placeholders in token ids (idempotent)."""
    from swift.template import Template

    add_tags, simplify = Template._add_default_tags, Template._simplify_context_list
    if getattr(add_tags, "thyme_installed", False):
        return

    @functools.wraps(add_tags)
    def _add_default_tags(self: Any, inputs: Any) -> None:
        _account_for_token_images(add_tags, self, inputs)

    @functools.wraps(simplify)
    def _simplify_context_list(
        self: Any, context_list: list[Any], loss_scale_list: list[float], inputs: Any
    ) -> Any:
        if inputs.images and not keeps_placeholders(self) and _turns_of_ids(inputs.messages):
            context_list, loss_scale_list = _with_tags(self, context_list, loss_scale_list)
        return simplify(self, context_list, loss_scale_list, inputs)

    _add_default_tags.thyme_installed = True  # type: ignore[attr-defined]
    Template._add_default_tags = _add_default_tags
    Template._simplify_context_list = _simplify_context_list


def install_upright_images() -> None:
    """Make ms-swift's templates turn pictures as EXIF says (idempotent).

    A picture that is upright is not touched; another one is decoded, as it would be next.
    """
    from swift.template import Template

    base = Template._load_image
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def _load_image(image: Any, load_images: bool) -> Any:
        loaded = base(image, load_images)
        return upright(loaded) if isinstance(loaded, Image.Image) else loaded

    _load_image.thyme_installed = True  # type: ignore[attr-defined]
    Template._load_image = staticmethod(_load_image)
