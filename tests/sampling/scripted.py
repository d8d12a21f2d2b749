"""Makes vLLM say a script: a logits processor for requests whose prompt names one."""

import re

import torch
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from tests.sampling.scripts import SCRIPTS


class _Say:
    def __init__(self, script: list[int]) -> None:
        self.script = script

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        logits[self.script[min(len(output_ids), len(self.script) - 1)]] = 1e4
        return logits


class ScriptedLogits(AdapterLogitsProcessor):
    """Gives the next token of the script the highest logit, before the hook under test."""

    def __init__(self, vllm_config, device, is_pin_memory) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._tokenizer = cached_tokenizer_from_config(vllm_config.model_config)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update) -> None:
        added = batch_update.added if batch_update else []
        self._prompts = {id(params): prompt_ids for _, params, prompt_ids, _ in added}
        super().update_state(batch_update)

    def new_req_logits_processor(self, params):
        prompt = self._tokenizer.decode(self._prompts[id(params)] or [])
        found = re.search(r"script (\w+)\.", prompt)
        return _Say(SCRIPTS[found.group(1)]) if found else None
