"""ms-swift plugin of the tests that compare modes: a scripted policy and a scheduler for it.

Log-probabilities are those of the model as it is, not of the policy, which is certain of all it
says: so they differ where prompts, images or places differ.
"""

from dataclasses import replace

import torch
from swift.rollout import multi_turns
from swift.template import Template
from transformers import LogitsProcessor, LogitsProcessorList

from swift_thyme.host.scheduler import O3Scheduler
from tests.e2e import parity_scripts


class Parity(O3Scheduler):
    """The scheduler, with THYME_TRAIN_CODE_TOKENS=false for the scripts that ask for it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._without_code = O3Scheduler(*args, **kwargs)
        self._without_code._sampling = replace(self._sampling, train_code_tokens=False)

    def _of(self, request):
        asked = next(m["content"] for m in request.messages if m["role"] == "user")
        leaves_out = parity_scripts.name_in(asked).startswith("untrained")
        return self._without_code if leaves_out else super()

    async def leave(self, name):
        await self._without_code.leave(name)
        await super().leave(name)

    async def on_trajectory_start(self, requests):
        for request in requests:
            await self._of(request).on_trajectory_start([request])

    async def on_turn_end(self, infer_request, response_choice, current_turn):
        of = self._of(infer_request)
        return await of.on_turn_end(infer_request, response_choice, current_turn)

    def step(self, infer_request, response_choice, current_turn):
        return self._of(infer_request).step(infer_request, response_choice, current_turn)


class Script(LogitsProcessor):
    """Gives each row's next token of its script the highest score, in transformers."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = 0
        self._turns: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._turns:
            self._start = input_ids.shape[1]
            for text in self._tokenizer.batch_decode(input_ids):
                turn = parity_scripts.next_turn(text, self._tokenizer)
                self._turns.append([*turn, self._tokenizer.eos_token_id])
        at = input_ids.shape[1] - self._start
        said = torch.full_like(scores, -1e9)
        for row, turn in enumerate(self._turns):
            said[row, turn[min(at, len(turn) - 1)]] = 0
        return said


_base = Template.prepare_generate_kwargs


def prepare_generate_kwargs(self, generate_kwargs, *, model=None):
    kwargs = _base(self, generate_kwargs, model=model)
    processors = kwargs.get("logits_processor") or []
    kwargs["logits_processor"] = LogitsProcessorList([Script(self.tokenizer), *processors])
    return kwargs


def use_raw_logprobs() -> None:
    """Have vLLM report the model's own log-probabilities, as transformers does."""
    from swift.infer_engine import VllmEngine

    prepare = VllmEngine._prepare_engine_kwargs

    def prepare_engine_kwargs(self, *args, **kwargs):
        self.logprobs_mode = "raw_logprobs"
        return prepare(self, *args, **kwargs)

    VllmEngine._prepare_engine_kwargs = prepare_engine_kwargs


parity_scripts.shorten_loops()
Template.prepare_generate_kwargs = prepare_generate_kwargs
use_raw_logprobs()
multi_turns["parity"] = Parity
