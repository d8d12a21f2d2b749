"""The tiny model before any training: tokenizer, processor, configuration, initial weights.

The architecture is Qwen2.5-VL's, so that every tool that knows Qwen2.5-VL runs it; only the sizes
and the vocabulary are small. This module owns these choices and how they are saved; training is
``pretrain``'s (plain torch) and ms-swift's (the protocol).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swift_thyme.core.protocol import PROTOCOL_TAGS, build_user_prompt
from swift_thyme.testbed.data import (
    QUESTION,
    SYSTEM_PROMPT,
    demonstration,
    locate_sentence,
    read_sentence,
)
from swift_thyme.testbed.task import GRID, PICTURE_SIZE, VIEW_SIZE, WINDOW_SIZE, Box

__all__ = [
    "SPECIAL_TOKENS",
    "SHORT_PROMPTS",
    "TESTBED_SIZE",
    "ShortPrompt",
    "Size",
    "build_tokenizer",
    "build_processor",
    "build_config",
    "build_model",
    "save_model",
]

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen's special tokens, without those of its other uses."""

VOCAB_BEFORE_ADDED = 880
"""Entries of the byte-level BPE itself (256 bytes and the merges); an upper limit."""

# Words, single signs and numbers of up to three digits are never merged with each other.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ShortPrompt:
    """User texts of the short exercises that come before the protocol is taught."""

    READ = "Read the plate."
    LOCATE = "Where is the plate?"
    BOTH = "Find the plate and read it."
    REPEAT = "Repeat it."
    JOIN = "Join the digits."


SHORT_PROMPTS = (
    ShortPrompt.READ,
    ShortPrompt.LOCATE,
    ShortPrompt.BOTH,
    ShortPrompt.REPEAT,
    ShortPrompt.JOIN,
)


def _corpus() -> Iterator[str]:
    """Yield the text that the vocabulary is made from: the task's own, and some file paths."""
    rng = np.random.default_rng(0)
    corners = range(0, PICTURE_SIZE - WINDOW_SIZE + 1, GRID)
    for step in range(400):
        left, top = (int(v) for v in rng.choice(list(corners), size=2))
        window = Box(left, top, left + WINDOW_SIZE, top + WINDOW_SIZE)
        number = str(10 + step % 90)
        folder = ("/tmp/run", "/home/user/data", "/mnt/data", "/root/output", "/workspace/project")
        path = f"{folder[step % len(folder)]}/testbed/pictures/rl_{step:05d}.jpg"
        yield SYSTEM_PROMPT
        yield build_user_prompt(QUESTION, path, (PICTURE_SIZE, PICTURE_SIZE))
        yield demonstration(window, number)
        yield locate_sentence(window) + read_sentence(number)
        yield from SHORT_PROMPTS
        yield "system user assistant"
        yield "eval sft rl png jpg crop images"
    # Every corner once more, so that each is certain to become one token.
    for corner in range(0, PICTURE_SIZE + 1, GRID):
        yield from [f"{corner}"] * 200


def build_tokenizer(
    corpus: Iterable[str] | None = None, vocab_size: int = VOCAB_BEFORE_ADDED
) -> Any:
    """Return a byte-level BPE tokenizer (a ``PreTrainedTokenizerFast``); it encodes any text.

    Args:
        corpus: Texts that the vocabulary is made from; None takes those of the testbed.
        vocab_size: Most entries before special tokens and tags.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        _corpus() if corpus is None else corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.add_special_tokens(list(SPECIAL_TOKENS))
    # As added tokens the tags never merge with the text around them; not special, so that
    # decoding without special tokens keeps them.
    core.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in PROTOCOL_TAGS])
    # Not Qwen2TokenizerFast: that class puts its own pre-tokenizer in place of the saved one.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: Any) -> Any:
    """Return the processor; it allows images of at most VIEW_SIZE x VIEW_SIZE pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 56 * 56, "longest_edge": VIEW_SIZE * VIEW_SIZE}
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": 56 * 56, "longest_edge": VIEW_SIZE * VIEW_SIZE}
        ),
        chat_template=_CHAT_TEMPLATE,
    )


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is; text and vision have heads of 32 and the same width."""

    width: int = 128
    text_layers: int = 4
    text_mlp: int = 256
    vision_layers: int = 3
    vision_mlp: int = 256


TESTBED_SIZE = Size()
"""Of the checkpoint in the package."""


def build_config(tokenizer: Any, size: Size = TESTBED_SIZE) -> Any:
    """Return a model's configuration (heads of 32, which vLLM's CPU attention supports)."""
    from transformers import Qwen2_5_VLConfig

    def token_id(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
            "hidden_size": size.width,
            "intermediate_size": size.text_mlp,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.width // 32,
            "num_key_value_heads": size.width // 32,
            "max_position_embeddings": 4096,
            # With a small theta the turn per grid step is large enough to tell image rows and
            # columns apart, although a head has only 6 + 6 pairs of channels for them.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10.0,
                "mrope_section": [4, 6, 6],
            },
            "tie_word_embeddings": True,
            "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.width,
            "intermediate_size": size.vision_mlp,
            "num_heads": size.width // 32,
            "out_hidden_size": size.width,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": VIEW_SIZE,
            "fullatt_block_indexes": list(range(size.vision_layers)),
            "tokens_per_second": 2,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
        # Tells `thyme ask`, `serve` and `eval` which template belongs to the checkpoint.
        thyme_template="thyme_tiny",
    )


def build_model(config: Any, seed: int) -> Any:
    """Return the model in float32 with fresh weights.

    Linear weights get a standard deviation of 1/sqrt(fan-in): at these widths the usual 0.02 makes
    every layer's output nearly nothing.
    """
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv3d):
                fan_in = module.weight[0].numel()
                torch.nn.init.normal_(module.weight, std=fan_in**-0.5)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
            elif isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    text = config.text_config
    model.generation_config = GenerationConfig(
        eos_token_id=[text.eos_token_id, text.pad_token_id],
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
    )
    return model


def save_model(model: Any, processor: Any, out_dir: str | Path) -> None:
    """Write weights (bfloat16), configuration, tokenizer and processor to a folder."""
    import copy

    import torch

    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(out_dir)
    processor.save_pretrained(out_dir)
