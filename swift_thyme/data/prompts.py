"""The user's message: its image tags, and the image paths and sizes that it quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from swift_thyme.core.protocol import IMAGE_TAG, image_lines
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = ["quoted_paths", "set_quoted_images", "with_image_tags"]

_PATH = re.compile(
    r"(User Image Path(?:\s+(?P<number>\d{1,4}))?[\"*\s]*:[*\s]*)"
    r"(?P<mark>[\"'])(?P<path>.+?)(?P=mark)"
)
_SIZE = re.compile(
    r"(User Image Size(?:\s+(?P<number>\d{1,4}))?[\"*\s]*:[*\s]*[\"']?)(?P<width>\d+)"
    r"(?P<by>\s*[x\u00d7X*]\s*)(?P<height>\d+)"
)
_LINE = re.compile(r"^.*User Image (?:Path|Size).*$", re.MULTILINE)


def quoted_paths(question: str) -> dict[int, str]:
    """Return the quoted image paths by their numbers; one without a number is number 1."""
    paths: dict[int, str] = {}
    for match in _PATH.finditer(question):
        paths.setdefault(int(match["number"] or 1), match["path"])
    return paths


def set_quoted_images(question: str, images: Sequence[tuple[str, int, int]]) -> str:
    """Return a question that quotes path and size of its images as they are stored.

    A path or size that stands there is replaced. Where the first image is quoted and a further one
    is not, lines for that one are added below. A question that quotes no path stays without any.

    Args:
        question: The user's message.
        images: Path, width and height (pixels) of each image, in order.
    """

    def path(match: re.Match[str]) -> str:
        number = int(match["number"] or 1)
        if not 1 <= number <= len(images):
            return match[0]
        return f"{match[1]}{match['mark']}{images[number - 1][0]}{match['mark']}"

    def size(match: re.Match[str]) -> str:
        number = int(match["number"] or 1)
        if not 1 <= number <= len(images):
            return match[0]
        _, width, height = images[number - 1]
        return f"{match[1]}{width}{match['by']}{height}"

    quoted = quoted_paths(question)
    question = _SIZE.sub(size, _PATH.sub(path, question))
    missing = [n for n in range(2, len(images) + 1) if n not in quoted] if quoted else []
    if not missing:
        return question
    *_, last = _LINE.finditer(question)
    lines = [image_lines(number, *images[number - 1]) for number in missing]
    return "\n".join([question[: last.end()], *lines]) + question[last.end() :]


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
