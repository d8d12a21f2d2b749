"""The loss scale ``thyme`` of ``swift sft``: what :mod:`swift_thyme.core.loss_mask` decides.

Works with every base strategy of ms-swift (``thyme``, ``last_round+thyme``). In a chain it stands
last (``ignore_empty_think+thyme``): a scale after it would take each piece for a whole turn, and
``ignore_empty_think`` would mask a ``</think>`` that follows an output. ms-swift appends that one
by itself for hybrid thinking models; :func:`let_thyme_decide` puts it in front.
"""

from __future__ import annotations

from typing import Any

from swift.loss_scale import (  # noqa: TID253 - this file is an ms-swift adapter
    LossScale,
    loss_scale_map,
)

from swift_thyme.core.loss_mask import split_response

__all__ = ["LOSS_SCALE_NAME", "ThymeLossScale", "add_loss_scale", "let_thyme_decide"]

LOSS_SCALE_NAME = "thyme"
"""What ``--loss_scale`` takes."""


class ThymeLossScale(LossScale):  # type: ignore[misc]  # ms-swift has no type information
    """Masks sandbox outputs, and all but the last round of a turn with several outputs."""

    is_binary = True

    def get_loss_scale(
        self, context: Any, *, query: str | None = None, **kwargs: Any
    ) -> tuple[list[Any], list[float]]:
        """Return the pieces of a context and the weight of each (hook of ms-swift).

        Args:
            context: Text, or token ids that another part of ms-swift has prepared.
            query: The user's message; None where the context is not the assistant's turn.
            **kwargs: What other loss scales look at.
        """
        if query is None or not isinstance(context, str):
            return [context], [1.0]
        contexts: list[Any] = []
        weights: list[float] = []
        for text, trained in split_response(context):
            # ms-swift joins neighbouring texts of equal weight before it makes tokens of them; an
            # empty list of ids between them is nothing but a border.
            contexts += [[], text]
            weights += [float(trained)] * 2
        return [*contexts, []], [*weights, 0.0]


def add_loss_scale() -> None:
    """Make ``--loss_scale thyme`` known to ms-swift (again is harmless)."""
    loss_scale_map[LOSS_SCALE_NAME] = ThymeLossScale


def let_thyme_decide(template: Any) -> bool:
    """Tell whether a template's rows get this loss scale, and let it stand last in its chain.

    Args:
        template: An ms-swift template; its loss scale is set where the chain has another order.
    """
    names = template._loss_scale.split("+")
    if LOSS_SCALE_NAME not in names:
        return False
    others = [name for name in names if name != LOSS_SCALE_NAME]
    template._loss_scale = "+".join([*others, LOSS_SCALE_NAME])
    return True
