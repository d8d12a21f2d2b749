"""Makes a copy of the tiny model whose logits push one token at every position.

usage: python push_token.py TOKEN LOGIT OUT_DIR

The copy gets an output layer of its own, in which the token's row points along the mean of the
model's last hidden states, so that the token's logit is about LOGIT wherever the model is.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from swift_thyme.testbed.data import demonstration
from tests.conftest import TINY_MODEL


@torch.no_grad()
def main(token: str, logit: float, out: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(TINY_MODEL))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(str(TINY_MODEL), dtype=torch.float32)
    text = demonstration((208, 112, 304, 208), "47").replace("<image>", "")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
    direction = hidden.mean(dim=0)
    head = torch.nn.Linear(hidden.shape[1], model.config.text_config.vocab_size, bias=False)
    head.weight.copy_(model.get_output_embeddings().weight)
    head.weight[tokenizer.convert_tokens_to_ids(token)] = (
        logit * direction / direction.square().sum()
    )
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head = head
    model.save_pretrained(str(out))
    for path in TINY_MODEL.iterdir():
        if not (out / path.name).exists():
            shutil.copy(path, out / path.name)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
