"""A tiny tokenizer with the special tokens of any family, at the ids that its template spells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.plain import TINY_MODEL

_KEPT = ("<think>", "</think>", "<code>", "</code>", "<sandbox_output>", "</sandbox_output>")
_KEPT += ("<answer>", "</answer>")


def build_tokenizer(
    tokens: Mapping[str, int | None],
    *,
    end: str,
    pad: str,
    begin: str | None = None,
    named: Mapping[str, str] | None = None,
    plain: Sequence[str] = (),
) -> Any:
    """Return a tokenizer with the vocabulary of the embedded model and a family's special tokens.

    Args:
        tokens: The family's special tokens, and the id of each where a template spells one.
        end: The token that ends a text.
        pad: The one that fills a batch.
        begin: The one that begins a text; it is put in front of each.
        named: Special tokens that a processor asks the tokenizer for by an attribute.
        plain: Further tokens that are not special.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    parts = json.loads((TINY_MODEL / "tokenizer.json").read_text("utf-8"))
    vocabulary: dict[str, int] = parts["model"]["vocab"]
    kept = [entry for entry in parts["added_tokens"] if entry["content"] in _KEPT]
    taken = {i for i in tokens.values() if i is not None}
    free = (i for i in range(len(vocabulary), 10**6) if i not in taken)
    entries = []
    for entry in kept:
        entries.append({**entry, "id": next(free)})
    for token, wanted in {**tokens, **dict.fromkeys(plain)}.items():
        token_id = next(free) if wanted is None else wanted
        entries.append(
            {
                **{"id": token_id, "content": token, "special": token not in plain},
                **{"single_word": False, "lstrip": False, "rstrip": False, "normalized": False},
            }
        )
    # A token of the vocabulary keeps its id; others get the next one.
    vocabulary |= {entry["content"]: entry["id"] for entry in entries}
    parts["added_tokens"] = sorted(entries, key=lambda entry: entry["id"])
    core = Tokenizer.from_str(json.dumps(parts))
    if begin is not None:
        core.post_processor = TemplateProcessing(
            single=f"{begin} $A",
            special_tokens=[(begin, core.token_to_id(begin))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        model_max_length=4096,
        extra_special_tokens=dict(named or {}),
        clean_up_tokenization_spaces=False,
    )
