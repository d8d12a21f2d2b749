"""ms-swift plugin of the tests: the transformers engine says the text of a file, then an answer.

``THYME_SCRIPT`` names the file. What the model itself would say plays no part.
"""

import os
from pathlib import Path

import torch
from swift.template import Template
from transformers import LogitsProcessor, LogitsProcessorList

ANSWER = "</think><answer>2</answer>"

_base = Template.prepare_generate_kwargs


class Script(LogitsProcessor):
    """Gives each row's next token of the script the highest score.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = 0
        self._scripts: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._scripts:
            self._start = input_ids.shape[1]
            first = Path(os.environ["THYME_SCRIPT"]).read_text(encoding="utf-8")
            for text in self._tokenizer.batch_decode(input_ids):
                says = ANSWER if "</sandbox_output>" in text else first
                self._scripts.append(self._tokenizer.encode(says, add_special_tokens=False))
        at = input_ids.shape[1] - self._start
        said = torch.full_like(scores, -1e9)
        for row, script in enumerate(self._scripts):
            end = self._tokenizer.eos_token_id
            said[row, script[at] if at < len(script) else end] = 0
        return said


def prepare_generate_kwargs(self, generate_kwargs, *, model=None):
    kwargs = _base(self, generate_kwargs, model=model)
    processors = kwargs.get("logits_processor") or []
    kwargs["logits_processor"] = LogitsProcessorList([*processors, Script(self.tokenizer)])
    return kwargs


Template.prepare_generate_kwargs = prepare_generate_kwargs
