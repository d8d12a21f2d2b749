"""Rewards of Thyme: format, answer, consistency, code, and the process rewards.

What is scored is decided here, without ms-swift; ``host.reward_functions`` adapts it, and
``host.register.register_rewards`` makes it known there.
"""

from __future__ import annotations

from swift_thyme.rewards.reward_settings import RewardSettings

__all__ = ["RewardSettings"]
