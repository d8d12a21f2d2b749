"""What becomes of a reward that could not be computed: the mean of its group, never zero.

ms-swift turns a reward of None into NaN and adds the reward functions up with ``nansum``, so a
missing reward would count as zero. With the mean of the group's other rewards in its place, the
function adds nothing to the sample's advantage, and nothing changes for the rest of the group. A
group without any reward stays NaN: it adds the same nothing to every member, and ms-swift leaves
NaN out of its reward metrics.

The mean needs the whole group. The sampler repeats each prompt ``num_generations`` times in a row,
and the processes take slices of ``per_device_train_batch_size * steps_per_generation`` of that
list; only the global batch has to be divisible by ``num_generations`` (``_init_generation_batch_
params``). With the published recipe (slices of 5, groups of 4) most groups span two processes, so a
reward function cannot fill the gaps by itself. They are filled in what
``GRPOTrainer._compute_rewards_per_func`` returns: rewards of all processes, in the order in which
``compute_advantages`` groups them, before dynamic sampling looks at them.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from swift_thyme.rewards.metrics import RewardMetrics

if TYPE_CHECKING:
    import torch

__all__ = ["fill_missing", "install_filling", "leaves_gaps"]

logger = logging.getLogger(__name__)

_TRAINER_MODULE = "swift.rlhf_trainers.grpo_trainer"
_MARK = "_thyme_fills_missing"


def fill_missing(
    rewards: torch.Tensor, columns: Sequence[int], groups: Sequence[Hashable]
) -> tuple[torch.Tensor, int]:
    """Replace NaN by the mean of the same function's other rewards in the same group.

    Args:
        rewards: Rewards of shape (samples, functions).
        columns: Functions to fill; NaN elsewhere means "this function has no say on this row".
        groups: Group of each sample, aligned with the rows.

    Returns:
        A tensor like ``rewards``, where a column is left NaN only for groups without any reward in
        it, and the number of values that were filled in.
    """
    if len(groups) != len(rewards):
        raise ValueError(f"{len(groups)} groups for {len(rewards)} rows of rewards")
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    filled = rewards.clone()
    count = 0
    for column in columns:
        if not bool(rewards[:, column].isnan().any()):
            continue
        for rows in members.values():
            values = rewards[rows, column]
            gaps = values.isnan()
            if bool(gaps.any()) and not bool(gaps.all()):
                filled[rows, column] = values.where(~gaps, values.nanmean())
                count += int(gaps.sum())
    return filled, count


def install_filling(metrics: RewardMetrics) -> bool:
    """Make ms-swift's GRPO trainer fill the gaps that rewards with ``fills_missing`` leave.

    Called when the trainer builds its reward functions, so its module is loaded by then; calling
    it again does nothing.

    Returns:
        Whether that trainer is in this process; False under Megatron or Ray, whose trainers
        gather rewards elsewhere.
    """
    module = sys.modules.get(_TRAINER_MODULE)
    if module is None:
        return False
    trainer_class = module.GRPOTrainer
    original = trainer_class._compute_rewards_per_func
    if not getattr(original, _MARK, False):
        trainer_class._compute_rewards_per_func = _filling(original, metrics)
    return True


def leaves_gaps(trainer: Any) -> bool:
    """Tell whether ms-swift's GRPO trainer has rewards to fill and does not fill them."""
    marked = any(getattr(function, "fills_missing", False) for function in trainer.reward_funcs)
    return marked and not getattr(trainer._compute_rewards_per_func, _MARK, False)


def _filling(
    original: Callable[[Any, list[Any]], torch.Tensor], metrics: RewardMetrics
) -> Callable[[Any, list[Any]], torch.Tensor]:
    @functools.wraps(original)
    def compute(trainer: Any, samples: list[Any]) -> torch.Tensor:
        rewards = original(trainer, samples)
        columns = [
            index
            for index, function in enumerate(trainer.reward_funcs)
            if getattr(function, "fills_missing", False)
        ]
        if not columns:
            return rewards
        filled, count = fill_missing(rewards, columns, _groups(trainer, samples, len(rewards)))
        if trainer.accelerator.is_main_process:
            # Every process sees the rewards of all; one of them counts.
            metrics.count("rewards_filled", count)
        return filled

    setattr(compute, _MARK, True)
    return compute


def _groups(trainer: Any, samples: list[Any], rows: int) -> list[Hashable]:
    """Return the group of each row of the gathered rewards, as ``compute_advantages`` sees it."""
    if trainer.dynamic_num_samples:
        from accelerate.utils import gather_object

        # Every process comes through here, as every one of them computed rewards.
        return list(gather_object([sample.prompt_id for sample in samples]))
    training = trainer.model.training
    size = trainer.num_generations if training else trainer.num_generations_eval
    return [row // size for row in range(rows)]
