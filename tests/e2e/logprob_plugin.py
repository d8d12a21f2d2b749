"""ms-swift plugin of the tests: log-probabilities of the engine beside those of the batches.

Unlike ``capture_plugin.py`` it takes what the trainer has computed itself, so it holds also where
several processes share each sequence.
"""

import copy
import json
import os

from accelerate.utils import gather_object
from swift.rlhf_trainers import grpo_trainer, rollout_mixin

_sampled: dict[str, list[float]] = {}
_engine_infer = rollout_mixin.RolloutTrainerMixin._engine_infer
_prepare_batch_inputs = grpo_trainer.GRPOTrainer._prepare_batch_inputs


def engine_infer(self, infer_requests, request_config=None, **kwargs):
    request_config = copy.copy(request_config)
    request_config.logprobs = True
    outputs = _engine_infer(self, infer_requests, request_config, **kwargs)
    for request, output in zip(infer_requests, outputs, strict=True):
        content = output.response.choices[0].logprobs["content"]
        _sampled.setdefault(request.uuid, []).extend(item["logprob"] for item in content)
    return outputs


def prepare_batch_inputs(self, samples):
    chunks = self.split_by_mini_batches(samples)
    batches = _prepare_batch_inputs(self, samples)
    of_all: dict[str, list[float]] = {}
    for sampled in gather_object([_sampled]):
        of_all.update(sampled)
    path = f"{os.environ['THYME_CAPTURE']}.{self.accelerator.process_index}"
    with open(path, "a", encoding="utf-8") as file:
        for chunk, batch in zip(chunks, batches, strict=True):
            computed = batch["grpo_batch"]
            for row, sample in enumerate(chunk):
                mask = computed.completion_mask[row].bool()
                record = {
                    "engine": of_all[sample.request_id],
                    "trainer": computed.old_per_token_logps[row][mask].tolist(),
                    "images": sample.rollout_infos["thyme_images"],
                }
                file.write(json.dumps(record) + "\n")
    return batches


rollout_mixin.RolloutTrainerMixin._engine_infer = engine_infer
grpo_trainer.GRPOTrainer._prepare_batch_inputs = prepare_batch_inputs
