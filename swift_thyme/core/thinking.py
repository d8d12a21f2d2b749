"""The tags that a model puts around its thoughts, where they are not those of the protocol.

Gemma 4 thinks between ``<|channel>thought`` and ``<channel|>``, Kimi-VL between other signs. What
is rewarded, logged and shown has the protocol's ``<think>`` in their place; the ids that are
trained on stay the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swift_thyme.core.environment import Reader, unusable
from swift_thyme.core.protocol import PROTOCOL_TAGS, THINK_CLOSE, THINK_OPEN

__all__ = ["OF_THE_PROTOCOL", "ThinkingTags", "tags_from_environment"]


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """How a model opens and closes a thought."""

    opening: str = THINK_OPEN
    closing: str = THINK_CLOSE

    def canonical(self, text: str) -> str:
        """Return text with the protocol's tags in the place of the model's own."""
        if self == OF_THE_PROTOCOL:
            return text
        return text.replace(self.opening, THINK_OPEN).replace(self.closing, THINK_CLOSE)


OF_THE_PROTOCOL = ThinkingTags()


def tags_from_environment(environ: Mapping[str, str] | None = None) -> ThinkingTags | None:
    """Return the tags that ``THYME_THINK_TAGS`` names; None where it is not set.

    Args:
        environ: Variables to read; None reads those of this process.

    Raises:
        SettingsError: It does not hold two different tags.
    """
    value = Reader(environ).given("THYME_THINK_TAGS")
    if value is None:
        return None
    words = str(value).split()
    others = set(PROTOCOL_TAGS) - {THINK_OPEN, THINK_CLOSE}
    if len(set(words)) != 2 or len(words) != 2 or others & set(words):
        raise unusable("THYME_THINK_TAGS", str(value))
    return ThinkingTags(*words)
