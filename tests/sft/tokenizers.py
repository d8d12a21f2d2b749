"""A byte-level BPE tokenizer that merges across the borders of the protocol, as Qwen's does.

The tiny model keeps each tag as one token, so it cannot show what a merge would do. This one has
Qwen's pre-tokenizer and special tokens, no tag tokens, and is trained on text full of tags and on
texts of the standard library, so that ``><`` and ``>`` with a line break become tokens.
"""

from __future__ import annotations

import copy
import email.message
import json
import textwrap
from typing import Any

from tests.conftest import TINY_MODEL
from tests.sft.rows import ROWS

VOCABULARY = 1500


def merging_tokenizer(like: Any) -> Any:
    """Return a tokenizer with the special tokens of ``like`` and merges across tag borders."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    source = json.loads((TINY_MODEL / "tokenizer.json").read_text())
    base = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = base.pre_tokenizer
    tokenizer.decoder = base.decoder
    special = [token["content"] for token in source["added_tokens"] if token["special"]]
    from tokenizers.pre_tokenizers import ByteLevel

    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    joined = ["".join(piece[1:] for piece in row) for row in ROWS.values()]
    glued = ["</code><sandbox_output>", "</sandbox_output>\n", "<think>\n<code>\n", "</code>\n"]
    texts = [*joined * 20, *glued * 200, textwrap.__doc__ or "", email.message.__doc__ or ""]
    tokenizer.train_from_iterator([*texts, *(str(v) for v in vars(textwrap).values())], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=like.eos_token,
        pad_token=like.pad_token,
        extra_special_tokens=special,
    )
    # Where ms-swift leaves what it knows about the model.
    made.model_info, made.model_meta = like.model_info, like.model_meta
    return made


def with_tokenizer(processor: Any, tokenizer: Any) -> Any:
    """Return a copy of a processor that uses another tokenizer."""
    other = copy.copy(processor)
    other.tokenizer = tokenizer
    return other
