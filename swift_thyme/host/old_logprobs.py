"""Old log-probabilities, where the loss computes the same numbers anyway.

GRPO's ratio compares the policy with the one that sampled. ms-swift 4.6 computes the latter's
log-probabilities of each sample in a pass of its own, and those of the former in the loss. Where a
sample is used in one update alone, with the weights that sampled it, both are the same: the ratio
is 1, and the loss takes its own numbers, detached, where none are given. So the pass is left out.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["skip_old_logprobs"]


def skip_old_logprobs(trainer: Any) -> bool:
    """Leave the pass for old log-probabilities out of a trainer, where nothing needs it.

    Args:
        trainer: ms-swift's GRPO trainer.

    Returns:
        Whether it is left out. It stays where a sample is used in several updates, where samples
        are those of earlier weights, and where other parts than the ratio read the numbers: a
        teacher, the KL term in the reward, Liger's loss.
    """
    if _are_needed(trainer):
        return False
    pass_of_model = trainer._get_per_token_logps_and_entropies
    prepare = trainer._prepare_batch_inputs
    preparing = False
    left_out: dict[int, Any] = {}  # the objects too, or an id could come again

    @functools.wraps(pass_of_model)
    def compute(model: Any, model_inputs: Any, grpo_batch: Any, *args: Any, **kwargs: Any) -> Any:
        # ms-swift's own calls name origin_data; other plugins may ask for other batches meanwhile.
        if preparing and "origin_data" in kwargs and id(grpo_batch) not in left_out:
            # The first pass of a batch is for the old ones, a second one for the reference.
            left_out[id(grpo_batch)] = grpo_batch
            return None, None
        return pass_of_model(model, model_inputs, grpo_batch, *args, **kwargs)

    @functools.wraps(prepare)
    def prepare_once(samples: Any) -> Any:
        nonlocal preparing
        preparing = True
        try:
            return prepare(samples)
        finally:
            preparing = False
            left_out.clear()

    trainer._get_per_token_logps_and_entropies = compute
    trainer._prepare_batch_inputs = prepare_once
    return True


def _are_needed(trainer: Any) -> bool:
    return bool(
        trainer.old_policy()
        or trainer.args.async_generate
        # Without one, rows could name a teacher, but such data is refused.
        or trainer._has_teacher_explicit()
        or (trainer.kl_in_reward and trainer.beta)
        or trainer.use_liger_loss
    )
