"""Rewards of Thyme: format, answer, consistency, code, and the process rewards.

Importing this package has no side effect and does not import ms-swift; :func:`register` does.
"""

from __future__ import annotations

from swift_thyme.rewards.settings import RewardSettings

__all__ = ["RewardSettings", "register", "drain_metrics"]


def register() -> None:
    """Make the seven rewards known to ms-swift; calling it again does nothing new.

    Names: ``fmt_orm``, ``vqa_orm``, ``cst_orm``, ``code_orm``, ``code_orm_llm``, ``vqa_prm`` and
    ``code_prm``. The environment is read later, when the trainer makes the rewards.
    """
    from swift_thyme.rewards.orms import add_to_swift

    add_to_swift()


def drain_metrics() -> dict[str, float]:
    """Return the counters of this process since the last call, by metric name.

    See :meth:`swift_thyme.rewards.metrics.RewardMetrics.drain` for the names; empty before the
    first reward was computed.
    """
    from swift_thyme.rewards.orms import shared_scorer

    return shared_scorer().metrics.drain()
