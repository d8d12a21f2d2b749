"""ms-swift plugin: computes each loss also with old log-probabilities, and writes down both.

Counts the passes of the model in a step as well. The file is in ``THYME_LOSSES``.
"""

import functools
import json
import os
from typing import Any

import torch
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

compute = GRPOTrainer._compute_loss_and_metrics
one_pass = GRPOTrainer._get_per_token_logps_and_entropies_single
n_passes = 0


@functools.wraps(one_pass)
def count(self: Any, *args: Any, **kwargs: Any) -> Any:
    global n_passes
    n_passes += 1
    return one_pass(self, *args, **kwargs)


def gradient(model: Any, loss: Any) -> torch.Tensor:
    weights = [w for w in model.parameters() if w.requires_grad]
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@functools.wraps(compute)
def both(self: Any, model: Any, model_inputs: Any, grpo_batch: Any) -> Any:
    global n_passes
    given = grpo_batch.old_per_token_logps
    loss, metrics = compute(self, model, model_inputs, grpo_batch)
    passes, n_passes = n_passes, 0
    with torch.no_grad():
        found = self._get_per_token_logps_and_entropies(model, model_inputs, grpo_batch)
    grpo_batch.old_per_token_logps = found[0]
    other, _ = compute(self, model, model_inputs, grpo_batch)
    one, two = gradient(model, loss), gradient(model, other)
    record = {
        "given": given is not None,
        "passes": passes,
        "losses": [loss.item(), other.item()],
        "norm": two.norm().item(),
        "apart": (one - two).norm().item(),
    }
    grpo_batch.old_per_token_logps = given
    n_passes = 0
    with open(os.environ["THYME_LOSSES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return loss, metrics


GRPOTrainer._get_per_token_logps_and_entropies_single = count
GRPOTrainer._compute_loss_and_metrics = both
