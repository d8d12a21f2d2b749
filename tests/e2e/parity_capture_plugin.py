"""ms-swift plugin of the tests that compare modes: writes down the scored samples of a rollout."""

import copy
import hashlib
import json
import os

from swift.rlhf_trainers import grpo_trainer, rollout_mixin
from swift.rlhf_trainers.utils import get_even_process_data

from swift_thyme.host.engine_feed import EngineFeed
from tests.e2e import parity_scripts

_prompts: dict[str, list[int]] = {}
_engine_infer = rollout_mixin.RolloutTrainerMixin._engine_infer
_infer_async = EngineFeed.infer_async
_log_rollout = grpo_trainer.GRPOTrainer._log_rollout


def engine_infer(self, infer_requests, request_config=None, **kwargs):
    request_config = copy.copy(request_config)
    request_config.logprobs = True
    outputs = _engine_infer(self, infer_requests, request_config, **kwargs)
    for request, output in zip(infer_requests, outputs, strict=True):
        # That of the last turn stays.
        _prompts[request.uuid] = output.response.prompt_token_ids
    return outputs


async def infer_async(self, request, config):
    response = await _infer_async(self, request, config)
    _prompts[request.uuid] = response.prompt_token_ids
    return response


def log_rollout(self, samples):
    rewards = get_even_process_data(self, self._rewards_per_func.tolist())
    lines = []
    for sample, row in zip(samples, rewards, strict=True):
        infos = {k: v for k, v in sample.rollout_infos.items() if k != "images"}
        asked = next(m["content"] for m in sample.messages if m["role"] == "user")
        record = {
            "script": parity_scripts.name_in(asked),
            "response_token_ids": sample.response_token_ids,
            "response_loss_mask": sample.response_loss_mask,
            "rollout_logprobs": sample.rollout_logprobs,
            "messages": sample.messages,
            "finish_reason": sample.finish_reason,
            "images": [hashlib.md5(str(image).encode()).hexdigest() for image in sample.images],
            "infos": infos,
            "rewards": dict(zip(self.reward_func_names, row, strict=True)),
            "last_prompt": _prompts.get(sample.request_id),
            "image_id": self.template.image_token_id,
        }
        lines.append(json.dumps(record) + "\n")
    # In one piece, as other processes write to the same file.
    file = os.open(os.environ["THYME_CAPTURE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, "".join(lines).encode())
    os.close(file)
    return _log_rollout(self, samples)


rollout_mixin.RolloutTrainerMixin._engine_infer = engine_infer
EngineFeed.infer_async = infer_async
grpo_trainer.GRPOTrainer._log_rollout = log_rollout
