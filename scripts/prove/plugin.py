"""Plugin of the proof: the loss scale ``thyme_all_rounds``, for a comparison with ``thyme``.

Sandbox outputs are masked as there, and every round is trained, not only the last one.
"""

from __future__ import annotations

from typing import Any

from swift.loss_scale import LossScale, loss_scale_map  # noqa: TID253 - a plugin of ms-swift

from swift_thyme.core.loss_mask import split_response
from swift_thyme.core.protocol import OUTPUT_OPEN


class AllRounds(LossScale):
    """Masks sandbox outputs alone."""

    is_binary = True

    def get_loss_scale(
        self, context: Any, *, query: str | None = None, **kwargs: Any
    ) -> tuple[list[Any], list[float]]:
        """Return the pieces of a context and the weight of each (hook of ms-swift)."""
        if query is None or not isinstance(context, str):
            return [context], [1.0]
        contexts: list[Any] = []
        weights: list[float] = []
        for text, _ in split_response(context):
            # An empty list of ids keeps ms-swift from joining neighbours before it tokenizes.
            contexts += [[], text]
            weights += [float(not text.startswith(OUTPUT_OPEN))] * 2
        return [*contexts, []], [*weights, 0.0]


loss_scale_map["thyme_all_rounds"] = AllRounds
