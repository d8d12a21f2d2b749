"""Images behind token ids: what ms-swift's Qwen-VL templates need to accept them.

A multi-turn rollout in ms-swift is token-in-token-out: the assistant's turn so far is a list of
token ids. An image that the sandbox returned is ONE placeholder id in that list, followed by one
more entry in ``images``. Stock ms-swift 4.6 counts ``<image>`` tags in text only, so it would move
such an image to the front of the first user message and never load it. The function installed here
hands those images to the template's own ``replace_tag`` (which loads and resizes) and leaves the
rest to the method that it wraps.

Stock ms-swift shows the model a picture as the sensor stored it, whatever its EXIF says. The second
function installed here turns it, as :mod:`swift_thyme.core.pictures` does for generated code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.pictures import upright

__all__ = ["count_token_images", "install_image_accounting", "install_upright_images"]


def count_token_images(messages: list[dict[str, Any]], image_token_id: int) -> int:
    """Count image placeholders in assistant messages that are given as token ids."""
    from swift.template.utils import get_token_backed_response_ids

    count = 0
    for message in messages:
        if message["role"] == "assistant":
            ids = get_token_backed_response_ids(message["content"])
            if ids:
                count += ids.count(image_token_id)
    return count


def _account_for_token_images(base: Callable[[Any], None], template: Any, inputs: Any) -> None:
    n_token = count_token_images(inputs.messages, template.image_token_id)
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
    for index in range(n_text, len(images)):
        template.replace_tag("image", index, inputs)


def install_image_accounting() -> None:
    """Make ms-swift's Qwen2-VL template family count placeholders in token ids (idempotent)."""
    from swift.template.templates.qwen import Qwen2VLTemplate

    base = Qwen2VLTemplate._add_default_tags
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def _add_default_tags(self: Any, inputs: Any) -> None:
        _account_for_token_images(base, self, inputs)

    _add_default_tags.thyme_installed = True  # type: ignore[attr-defined]
    Qwen2VLTemplate._add_default_tags = _add_default_tags


def install_upright_images() -> None:
    """Make ms-swift's Qwen2-VL template family turn pictures as EXIF says (idempotent).

    A picture that is upright is not touched; another one is decoded, as it would be next.
    """
    from swift.template.templates.qwen import Qwen2VLTemplate

    base = Qwen2VLTemplate._load_image
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def _load_image(image: Any, load_images: bool) -> Any:
        loaded = base(image, load_images)
        return upright(loaded) if isinstance(loaded, Image.Image) else loaded

    _load_image.thyme_installed = True  # type: ignore[attr-defined]
    Qwen2VLTemplate._load_image = staticmethod(_load_image)
