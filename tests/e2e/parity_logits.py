"""Makes vLLM say the scripts of the tests that compare modes."""

import torch
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from tests.e2e import parity_scripts

parity_scripts.shorten_loops()


class _Say:
    def __init__(self, turn: list[int], end_id: int) -> None:
        self.turn = [*turn, end_id]

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        logits[self.turn[min(len(output_ids), len(self.turn) - 1)]] = 1e4
        return logits


class Scripted(AdapterLogitsProcessor):
    """Gives the next token of the script the highest logit, before the hook of the package."""

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
        turn = parity_scripts.next_turn(prompt, self._tokenizer)
        return None if turn is None else _Say(turn, self._tokenizer.eos_token_id)
