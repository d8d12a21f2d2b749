"""Supervised training: which tokens of a demonstration are trained on.

``segments`` decides it as a pure function of text; ``loss_scale`` is its adapter to ms-swift, known
there as ``thyme``.
"""

from swift_thyme.sft.segments import Segment, split_response

__all__ = ["Segment", "split_response"]
