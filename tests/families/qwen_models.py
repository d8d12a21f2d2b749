"""Tiny random models of Qwen's families, and what the others have in common with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.families.tokenizer import build_tokenizer

CHATML = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
_QWEN = {
    **CHATML,
    **{"<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654},
    **{"<|image_pad|>": 151655, "<|video_pad|>": 151656},
}
_IDS = {"image_token_id": 151655, "video_token_id": 151656}
_VISION_IDS = {"vision_start_token_id": 151652, "vision_end_token_id": 151653}
VISION = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
TEXT = {
    **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
    **{"max_position_embeddings": 4096},
}
_EXPERTS = {
    # No two sides of a matrix are alike.
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "shared_expert_intermediate_size": 32,
}
SMALL = {"shortest_edge": 3136, "longest_edge": 12544}
"""Pixels of a picture."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A model before it is written."""

    config: Any
    processor: Any


def _qwen_tokenizer(more: Mapping[str, int | None] | None = None) -> Any:
    return build_tokenizer({**_QWEN, **(more or {})}, end="<|im_end|>", pad="<|endoftext|>")


def _qwen_processor(name: str, patch: int = 14, **more: Any) -> Any:
    import transformers as hf

    image = hf.Qwen2VLImageProcessor(size=SMALL, patch_size=patch)
    video_class = hf.Qwen3VLVideoProcessor if patch == 16 else hf.Qwen2VLVideoProcessor
    video = video_class(size=SMALL, patch_size=patch)
    return getattr(hf, name)(image, _qwen_tokenizer(more.pop("tokens", None)), video, **more)


def qwen2_vl() -> Parts:
    import transformers as hf

    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    config = hf.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**VISION, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2},
        **_IDS,
        **_VISION_IDS,
    )
    return Parts(config, _qwen_processor("Qwen2VLProcessor"))


def qwen2_5_vl() -> Parts:
    import transformers as hf

    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    vision = {
        **{**VISION, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 64},
        "fullatt_block_indexes": [0],
    }
    config = hf.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, **_IDS, **_VISION_IDS
    )
    return Parts(config, _qwen_processor("Qwen2_5_VLProcessor"))


_QWEN3_VISION = {
    **{**VISION, "patch_size": 16, "hidden_size": 64, "intermediate_size": 64},
    **{"out_hidden_size": 64, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
}
_QWEN3_ROPE = {
    **{"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 1e4},
    "mrope_interleaved": True,
}


def qwen3_vl(experts: bool = False) -> Parts:
    import transformers as hf

    config_class = hf.Qwen3VLMoeConfig if experts else hf.Qwen3VLConfig
    # vLLM asks for a name that transformers does not write by itself.
    more = {**_EXPERTS, "norm_topk_prob": True} if experts else {}
    text = {**TEXT, "rope_parameters": _QWEN3_ROPE, **more}
    config = config_class(text_config=text, vision_config=_QWEN3_VISION, **_IDS, **_VISION_IDS)
    return Parts(config, _qwen_processor("Qwen3VLProcessor", patch=16))


def qwen3_5(experts: bool = False) -> Parts:
    import transformers as hf

    config_class = hf.Qwen3_5MoeConfig if experts else hf.Qwen3_5Config
    text = {
        **{**TEXT, **(_EXPERTS if experts else {})},
        **{"layer_types": ["linear_attention", "full_attention"]},
        **{"linear_key_head_dim": 32, "linear_value_head_dim": 32},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 2},
        "rope_parameters": {
            **_QWEN3_ROPE,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.25,
        },
    }
    ids = {"image_token_id": 248056, "video_token_id": 248057}
    ids |= {"vision_start_token_id": 248053, "vision_end_token_id": 248054}
    vision = {**_QWEN3_VISION}
    vision.pop("deepstack_visual_indexes")
    config = config_class(text_config=text, vision_config=vision, **ids)
    tokens = {
        **{"<|vision_start|>": 248053, "<|vision_end|>": 248054, "<|vision_pad|>": 248055},
        **{"<|image_pad|>": 248056, "<|video_pad|>": 248057},
    }
    return Parts(config, _qwen_processor("Qwen3VLProcessor", patch=16, tokens=tokens))
