"""The user's message: its image tags, and the image path and size that it quotes."""

from __future__ import annotations

import re

from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = ["quoted_path", "set_quoted_path", "set_quoted_size", "with_image_tags"]

_PATH = re.compile(r"(User Image Path[\"*\s]*:[*\s]*)([\"'])(.+?)\2")
_SIZE = re.compile(r"(User Image Size[\"*\s]*:[*\s]*[\"']?)(\d+)(\s*[x\u00d7X*]\s*)(\d+)")


def quoted_path(question: str) -> str | None:
    """Return the quoted User Image Path, None where there is none."""
    match = _PATH.search(question)
    return match.group(3) if match else None


def set_quoted_path(question: str, local: str) -> str:
    """Return the question with its quoted User Image Path replaced."""
    return _PATH.sub(lambda m: f"{m.group(1)}{m.group(2)}{local}{m.group(2)}", question)


def set_quoted_size(question: str, width: int, height: int) -> str:
    """Return the question with its User Image Size set to that of the stored image."""
    return _SIZE.sub(lambda m: f"{m.group(1)}{width}{m.group(3)}{height}", question)


def with_image_tags(question: str, n_images: int, n_returned: int) -> str:
    """Return the question with one ``<image>`` per image that is its own.

    Args:
        question: The question; where it has no tag at all, tags are put in front of it.
        n_images: Images of the row.
        n_returned: Images that the response's sandbox outputs show.

    Raises:
        RowRejected: The tags do not fit the images.
    """
    n_tags = question.count(IMAGE_TAG)
    n_own = n_images - n_returned
    # With tags in the response, one missing there would put a returned image into the question.
    if n_tags == 0 and (n_own == 1 or (n_own > 1 and n_returned == 0)):
        return f"{IMAGE_TAG * n_own}\n{question}"
    if n_tags != n_own:
        raise RowRejected(
            Reason.IMAGE_COUNT,
            f"{n_images} images, but {n_tags} <image> in the question and {n_returned} in the "
            "response",
        )
    return question
