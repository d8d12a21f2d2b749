"""ms-swift plugin of the tests: writes down what the engine sampled and what the trainer computed.

It changes nothing that is trained on; it asks the transformers engine for log-probabilities too,
and computes each trajectory's log-probabilities once more with the returned images left out.
"""

import copy
import json
import os

import torch
from swift.rlhf_trainers import grpo_trainer, rollout_mixin
from swift.rlhf_trainers.utils import collate_to_grpo_micro_batch, encode_sample

from swift_thyme.host.engine_feed import EngineFeed

_sampled: dict[str, list[dict]] = {}
_engine_infer = rollout_mixin.RolloutTrainerMixin._engine_infer
_infer_async = EngineFeed.infer_async
_prepare_batch_inputs = grpo_trainer.GRPOTrainer._prepare_batch_inputs


def engine_infer(self, infer_requests, request_config=None, **kwargs):
    request_config = copy.copy(request_config)
    request_config.logprobs = True
    outputs = _engine_infer(self, infer_requests, request_config, **kwargs)
    for request, output in zip(infer_requests, outputs, strict=True):
        note(request, output.response)
    return outputs


async def infer_async(self, request, config):
    response = await _infer_async(self, request, config)
    note(request, response)
    return response


def note(request, response):
    choice = response.choices[0]
    _sampled.setdefault(request.uuid, []).append(
        {
            "token_ids": list(choice.token_ids),
            "logprobs": [item["logprob"] for item in choice.logprobs["content"]],
        }
    )


def _logps(trainer, sample):
    """Return the trainer's log-probabilities of the sample's trained tokens, and its input ids."""
    template = trainer.template
    with trainer._template_context(template):
        encoded = encode_sample(sample, template)
        encoded.pop("_extra_kwargs", None)
        holder = copy.copy(sample)
        holder.encoded = encoded
        inputs, batch = collate_to_grpo_micro_batch(
            [holder], template, device=trainer.accelerator.device, use_logits_to_keep=True
        )
    inputs.pop("labels", None)
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(trainer.model, inputs, batch)[0]
    return logps[batch.completion_mask.bool()].tolist(), encoded["input_ids"]


def _without_returned_images(sample, image_id):
    """Return a copy of the sample whose completion holds no image."""
    stripped = copy.deepcopy(sample)
    n_removed = 0
    for turn, (ids, mask) in enumerate(
        zip(sample.response_token_ids, sample.response_loss_mask, strict=True)
    ):
        kept = [i for i in range(len(ids)) if ids[i] != image_id]
        n_removed += len(ids) - len(kept)
        stripped.response_token_ids[turn] = [ids[i] for i in kept]
        stripped.response_loss_mask[turn] = [mask[i] for i in kept]
    stripped.images = sample.images[: len(sample.images) - n_removed]
    return stripped


def prepare_batch_inputs(self, samples):
    batches = _prepare_batch_inputs(self, samples)
    if self.model.training:
        image_id = self.template.image_token_id
        path = f"{os.environ['THYME_CAPTURE']}.{self.accelerator.process_index}"
        with open(path, "a", encoding="utf-8") as file:
            for sample in samples:
                logps, input_ids = _logps(self, sample)
                infos = {k: v for k, v in sample.rollout_infos.items() if k != "images"}
                record = {
                    "turns": _sampled[sample.request_id],
                    "response_token_ids": sample.response_token_ids,
                    "response_loss_mask": sample.response_loss_mask,
                    "rollout_logprobs": sample.rollout_logprobs,
                    "n_images": len(sample.images),
                    "image_id": image_id,
                    "input_ids": input_ids,
                    "infos": infos,
                    "completion": sample.messages[-1]["content"],
                    "trainer_logps": logps,
                    "trainer_logps_without_images": _logps(
                        self, _without_returned_images(sample, image_id)
                    )[0],
                }
                file.write(json.dumps(record) + "\n")
    _sampled.clear()
    return batches


rollout_mixin.RolloutTrainerMixin._engine_infer = engine_infer
EngineFeed.infer_async = infer_async
grpo_trainer.GRPOTrainer._prepare_batch_inputs = prepare_batch_inputs
