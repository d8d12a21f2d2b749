"""The text that the model sees after a block: the one place where it is made.

Training, inference and evaluation all call `render_observation`. What a program prints is
untrusted text that lands in the middle of a chat template, so everything that a template, a
processor or our own parser could take for markup loses its `<` here, in a single pass. Characters
that show nothing, or show other characters in another order, become visible before that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.core.protocol import IMAGE_TAG, OUTPUT_CLOSE, OUTPUT_OPEN

__all__ = [
    "Observation",
    "neutralise",
    "only_saved_note",
    "render_observation",
    "says_failure",
    "visible",
]

EMPTY_OUTPUT = "(the code ran and printed nothing)"
"""Observation of a block that succeeded without output."""

# Our own tags, ms-swift's placeholders, tool markup of Qwen templates, and anything like <|...|>.
_MARKUP = re.compile(
    r"<(?=\s*(?:/\s*)?(?:image|video|audio|code|sandbox_output|think|answer|bbox|ref-object"
    r"|cot-process|start-image|tool_call|tool_response|tools)(?![\w-])|\s*\|)",
    re.IGNORECASE,
)

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffe\uffff"
    "\ud800-\udfff]"
)
"""Control characters but line feed and tab, Unicode's two further line ends, what changes the order
of a line, and what is no character. Joiners stay: scripts and emoji are written with them."""
_HIDDEN_ASCII = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
_REPLACEMENT = "\ufffd"
"""Unicode's sign for what cannot be shown. Pictures of control characters (U+2400) would say which
one it was, but there are none for most of these, and tokenizers know U+FFFD as one token."""

_STATUS_TEXT = {
    ExecutionStatus.ERROR: "Error",
    ExecutionStatus.TIMEOUT: "Timeout",
    ExecutionStatus.MEMORY: "Out of memory",
    ExecutionStatus.OUTPUT_LIMIT: "Too much output",
    ExecutionStatus.KILLED: "Killed",
}


_FAILURE = re.compile(
    rf"(?:{re.escape(OUTPUT_OPEN)}|\n)(?:{'|'.join(_STATUS_TEXT.values())}): ", re.IGNORECASE
)


@dataclass(frozen=True)
class Observation:
    """What is shown to the model.

    Attributes:
        text: `<sandbox_output>...</sandbox_output>` with one literal `<image>` per image.
        images: The images in the order of their `<image>` tags.
    """

    text: str
    images: tuple[ReturnedImage, ...]


def neutralise(text: str) -> str:
    """Return the text with the `<` of everything that looks like markup written as `&lt;`."""
    return _MARKUP.sub("&lt;", text)


def visible(text: str) -> str:
    """Return a text in which every character shows: a hidden one becomes U+FFFD.

    A carriage return becomes a line end. To keep only what a terminal would show last is shorter
    for a progress bar, but loses text that has such line ends, or that was overwritten on purpose.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        # Five times as fast as the search, and the usual case.
        data = text.encode()
        if len(data.translate(None, _HIDDEN_ASCII)) == len(data):
            return text
    return _HIDDEN.sub(_REPLACEMENT, text)


def only_saved_note(count: int) -> str:
    """Return what the model is told of images that it saved, did not print and does not see."""
    noun = "image was" if count == 1 else "images were"
    return f"({count} more {noun} saved: print a path to see one)"


def render_observation(
    result: ExecutionResult,
    max_images: int | None = None,
    max_chars: int | None = None,
    max_only_saved: int | None = None,
) -> Observation:
    """Return the observation for one block (Thyme sec. 3: `<sandbox_output>`).

    Args:
        result: What the block did.
        max_images: At most this many images are shown; the others become a short note. None
            shows all of them.
        max_chars: The printed text is cut in its middle to about this many characters. None
            leaves it at what the sandbox kept.
        max_only_saved: At most this many images are shown whose paths were not printed: the last
            of them. None shows all of them.
    """
    body: list[str] = []
    images: list[ReturnedImage] = []
    dropped = 0
    only_saved = [part for part in result.parts if not isinstance(part, str) and not part.printed]
    unseen = (
        only_saved[: max(0, len(only_saved) - max_only_saved)] if max_only_saved is not None else []
    )
    for part in result.parts:
        if isinstance(part, str):
            body.append(neutralise(visible(part)))
        elif any(part is image for image in unseen):
            continue
        elif max_images is not None and len(images) >= max_images:
            dropped += 1
        else:
            images.append(part)
            body.append(IMAGE_TAG)
    if dropped:
        noun = "image" if dropped == 1 else "images"
        body.append(f"({dropped} more {noun} not shown: at most {max_images} fit)")
    if unseen:
        body.append(only_saved_note(len(unseen)))
    if max_chars is not None:
        _shorten(body, max_chars)
    if result.error is not None:
        label = _STATUS_TEXT.get(result.status, "Error")
        body.append(neutralise(visible(f"{label}: {result.error}")))
    text = _join_lines(body) or EMPTY_OUTPUT
    return Observation(f"{OUTPUT_OPEN}{text}{OUTPUT_CLOSE}", tuple(images))


def says_failure(observation: str) -> bool:
    """Tell by the text alone whether an observation is that of a block that failed.

    A record of the block says it for certain; a log of texts has nothing else.
    """
    return _FAILURE.search(observation) is not None


def _join_lines(parts: list[str]) -> str:
    """Join so that each image and the error stand on lines of their own."""
    text = ""
    for part in parts:
        if text and not text.endswith("\n"):
            text += "\n"
        text += part
    return text.strip("\n") if text.strip() else ""


def _shorten(parts: list[str], max_chars: int) -> None:
    """Cut the text parts, in place, to `max_chars` in all: their head and their tail are kept."""
    texts = [i for i, part in enumerate(parts) if part != IMAGE_TAG]
    excess = sum(len(parts[i]) for i in texts) - max_chars
    head = max_chars // 2
    for i in texts:
        part = parts[i]
        if excess <= 0:
            break
        if len(part) <= head:
            head -= len(part)
            continue
        cut = min(excess, len(part) - head)
        parts[i] = f"{part[:head]}\n... [{cut} characters left out] ...\n{part[head + cut :]}"
        excess -= cut
        head = 0
