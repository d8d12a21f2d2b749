"""ms-swift plugin of the tests of families: a scripted policy, and what was computed of it.

Log-probabilities are those of the model as it is, not of the policy: so they differ where prompts,
images or places differ.
"""

import copy
import json
import os
from typing import Any

import torch
from swift.infer_engine import VllmEngine
from swift.rlhf_trainers import grpo_trainer, rollout_mixin
from swift.rlhf_trainers.utils import collate_to_grpo_micro_batch, encode_sample
from swift.template import Template
from transformers import LogitsProcessor, LogitsProcessorList

from swift_thyme.host.engine_feed import EngineFeed
from tests.families import scripts

_engine: dict[str, list[dict[str, Any]]] = {}
_infer = rollout_mixin.RolloutTrainerMixin._engine_infer
_infer_async = EngineFeed.infer_async
_prepare = grpo_trainer.GRPOTrainer._prepare_batch_inputs
_kwargs = Template.prepare_generate_kwargs
_engine_kwargs = VllmEngine._prepare_engine_kwargs
_scatter = torch.Tensor.masked_scatter
_features = {"placed": 0, "given": 0}


class Script(LogitsProcessor):
    """Gives each row's next token of its script the highest score."""

    def __init__(self, tokenizer: Any, prompts: list[list[int]] | None) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._start = 0
        self._turns: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._turns:
            self._start = input_ids.shape[1]
            for row, prompt in enumerate(self._prompts or input_ids.tolist()):
                text = self._tokenizer.decode(prompt)
                self._turns.append(scripts.next_turn(text, self._tokenizer, row))
        at = input_ids.shape[1] - self._start
        said = torch.full_like(scores, -1e9)
        for row, turn in enumerate(self._turns):
            said[row, turn[min(at, len(turn) - 1)]] = 0
        return said


def prepare_generate_kwargs(self, generate_kwargs, *, model=None):
    # A family that generates from embeddings hands its prompts to the sampling hook.
    prompts = self.__dict__.get("thyme_prompts")
    kwargs = _kwargs(self, generate_kwargs, model=model)
    processors = kwargs.get("logits_processor") or []
    script = Script(self.tokenizer, prompts)
    kwargs["logits_processor"] = LogitsProcessorList([script, *processors])
    return kwargs


def engine_infer(self, infer_requests, request_config=None, **kwargs):
    request_config = copy.copy(request_config)
    request_config.logprobs = True
    outputs = _infer(self, infer_requests, request_config, **kwargs)
    for request, output in zip(infer_requests, outputs, strict=True):
        _note(request, output.response)
    return outputs


async def infer_async(self, request, config):
    config = copy.copy(config)
    config.logprobs = True
    response = await _infer_async(self, request, config)
    _note(request, response)
    return response


def _note(request, response):
    """Note a turn as the engine gave it."""
    choice = response.choices[0]
    turn = {
        "token_ids": list(choice.token_ids),
        "logprobs": [item["logprob"] for item in choice.logprobs["content"]],
        "prompt_tokens": response.usage.prompt_tokens,
    }
    _engine.setdefault(request.uuid, []).append(turn)


def _logps(trainer, sample):
    """Return the trainer's log-probabilities of the trained tokens, and the encoded sample."""
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
    _features.update(placed=0, given=0)
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(trainer.model, inputs, batch)[0]
    return logps[batch.completion_mask.bool()].tolist(), encoded


def prepare_batch_inputs(self, samples):
    batches = _prepare(self, samples)
    if self.model.training:
        with open(os.environ["THYME_CAPTURE"], "a", encoding="utf-8") as file:
            for sample in samples:
                logps, encoded = _logps(self, sample)
                infos = {k: v for k, v in sample.rollout_infos.items() if k != "images"}
                labels = encoded["labels"]
                record = {
                    "turns": _engine[sample.request_id],
                    "response_token_ids": sample.response_token_ids,
                    "response_loss_mask": sample.response_loss_mask,
                    "n_images": len(sample.images),
                    "length": len(encoded["input_ids"]),
                    "trained_ids": [i for i in labels if i != -100],
                    "features": dict(_features),
                    "infos": infos,
                    "completion": sample.messages[-1]["content"],
                    "trainer_logps": logps,
                }
                file.write(json.dumps(record) + "\n")
    _engine.clear()
    return batches


def masked_scatter(self, mask, source):
    """Count what families write into the places of their placeholders."""
    _features["placed"] += int(mask.expand_as(self).sum())
    _features["given"] += source.numel()
    return _scatter(self, mask, source)


def prepare_engine_kwargs(self, *args, **kwargs):
    """Have vLLM report the model's own log-probabilities, as transformers does."""
    self.logprobs_mode = "raw_logprobs"
    return _engine_kwargs(self, *args, **kwargs)


Template.prepare_generate_kwargs = prepare_generate_kwargs
rollout_mixin.RolloutTrainerMixin._engine_infer = engine_infer
EngineFeed.infer_async = infer_async
grpo_trainer.GRPOTrainer._prepare_batch_inputs = prepare_batch_inputs
VllmEngine._prepare_engine_kwargs = prepare_engine_kwargs
torch.Tensor.masked_scatter = masked_scatter
