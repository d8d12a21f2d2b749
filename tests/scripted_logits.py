"""Makes vLLM say a script: the base of the logits processors of tests."""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor


class _Say:
    def __init__(self, script: Sequence[int]) -> None:
        self._script = script

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        logits[self._script[min(len(output_ids), len(self._script) - 1)]] = 1e4
        return logits


class ScriptedLogits(AdapterLogitsProcessor):
    """Gives the next token of a request's script the highest logit, before the hook under test."""

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
        script = self.script(prompt, self._tokenizer)
        return None if script is None else _Say(script)

    def script(self, prompt: str, tokenizer: Any) -> Sequence[int] | None:
        """Return the ids that follow a prompt, the last one again and again; None: any."""
        raise NotImplementedError
