"""Tiny random models of the families that ms-swift trains, made from transformers' own classes.

Widths and depths are tiny; what decides about tokens is the family's own: its processor, its
special tokens, and their ids where a template spells them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.families.qwen_models import (
    CHATML,
    SMALL,
    TEXT,
    VISION,
    Parts,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
)
from tests.families.tokenizer import build_tokenizer


@dataclass(frozen=True, slots=True)
class Family:
    """A family, and how a tiny model of it is made."""

    name: str
    """In the table."""
    model_type: str
    """ms-swift's."""
    template: str
    """ms-swift's."""
    build: Callable[[], Parts]

    def write_without_weights(self, folder: Path) -> Parts:
        """Write the configuration and the processor, and return them."""
        import transformers

        parts = self.build()
        classes = transformers.AutoModelForImageTextToText._model_mapping
        text = parts.config.get_text_config()
        tokenizer = parts.processor.tokenizer
        text.vocab_size = (max(tokenizer.get_vocab().values()) // 64 + 1) * 64
        text.eos_token_id, text.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        parts.config.architectures = [classes[type(parts.config)].__name__]
        parts.config.save_pretrained(folder)
        parts.processor.save_pretrained(folder)
        return parts

    def write(self, folder: Path) -> None:
        """Write the model with random weights."""
        import torch
        import transformers

        parts = self.write_without_weights(folder)
        classes = transformers.AutoModelForImageTextToText._model_mapping
        tokenizer = parts.processor.tokenizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = classes[type(parts.config)](parts.config)
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(folder)


def _internvl() -> Parts:
    import transformers as hf

    size = {"height": 56, "width": 56}
    tokenizer = build_tokenizer(
        {**CHATML, "<img>": None, "</img>": None, "<IMG_CONTEXT>": None, "<video>": None},
        end="<|im_end|>",
        pad="<|endoftext|>",
        named={
            **{"start_image_token": "<img>", "end_image_token": "</img>"},
            **{"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
        },
    )
    config = hf.InternVLConfig(
        text_config={**TEXT, "model_type": "qwen3"},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": [56, 56], "patch_size": [14, 14]},
        },
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    image = hf.GotOcr2ImageProcessor(size=size, max_patches=2)
    video = hf.InternVLVideoProcessor(size=size)
    return Parts(config, hf.InternVLProcessor(image, tokenizer, video, image_seq_length=4))


_GLM = {
    **{"<|endoftext|>": 151329, "[gMASK]": 151331, "<sop>": 151333},
    **{"<|system|>": 151335, "<|user|>": 151336, "<|assistant|>": 151337},
    **{"<|observation|>": 151338, "<|begin_of_image|>": 151339, "<|end_of_image|>": 151340},
    **{"<|begin_of_video|>": 151341, "<|end_of_video|>": 151342},
}


def _glm(experts: bool = False) -> Parts:
    import transformers as hf

    ids = {"image_token_id": 151363, "video_token_id": 151364} if experts else {}
    first = 151363 if experts else 151343
    tokens = {**_GLM, "<|image|>": first, "<|video|>": first + 1}
    tokenizer = build_tokenizer(tokens, end="<|endoftext|>", pad="<|endoftext|>")
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    text = {**TEXT, "rope_parameters": {**rope, "partial_rotary_factor": 0.5}}
    if experts:
        text |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        text["use_qk_norm"] = False
    else:
        text.pop("head_dim")
    vision = {
        **{**VISION, "hidden_size": 64, "intermediate_size": 64, "out_hidden_size": 64},
        **{"image_size": 56},
    }
    config_class = hf.Glm4vMoeConfig if experts else hf.Glm4vConfig
    config = config_class(text_config=text, vision_config=vision, **ids)
    image = hf.Glm4vImageProcessor(size=SMALL)
    video = hf.Glm4vVideoProcessor(size=SMALL)
    return Parts(config, hf.Glm4vProcessor(image, tokenizer, video))


def _gemma3() -> Parts:
    import transformers as hf

    tokens = {
        **{"<pad>": None, "<eos>": None, "<bos>": None},
        **{"<start_of_turn>": None, "<end_of_turn>": None},
        **{"<start_of_image>": 255999, "<end_of_image>": 256000, "<image_soft_token>": 262144},
    }
    tokenizer = build_tokenizer(
        tokens,
        end="<end_of_turn>",
        pad="<pad>",
        begin="<bos>",
        named={
            **{"image_token": "<image_soft_token>", "boi_token": "<start_of_image>"},
            "eoi_token": "<end_of_image>",
        },
        plain=["\n", "\n\n", "\n\n\n", "\n\n\n\n"],
    )
    config = hf.Gemma3Config(
        text_config={**TEXT, "query_pre_attn_scalar": 32, "sliding_window": 256},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        },
        mm_tokens_per_image=4,
    )
    image = hf.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return Parts(config, hf.Gemma3Processor(image, tokenizer, image_seq_length=4))


def _llava_onevision() -> Parts:
    import transformers as hf

    tokenizer = build_tokenizer(
        {**CHATML, "<image>": 151646, "<video>": 151647},
        end="<|im_end|>",
        pad="<|endoftext|>",
        named={"image_token": "<image>", "video_token": "<video>"},
    )
    pinpoints = [[56, 56], [56, 112], [112, 56]]
    config = hf.LlavaOnevisionConfig(
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config={
            **{"model_type": "siglip_vision_model", "vision_use_head": False},
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 56, "patch_size": 14},
        },
        image_grid_pinpoints=pinpoints,
    )
    size = {"height": 56, "width": 56}
    image = hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints)
    video = hf.LlavaOnevisionVideoProcessor(size=size)
    processor = hf.LlavaOnevisionProcessor(
        image, tokenizer, video, num_image_tokens=16, vision_feature_select_strategy="full"
    )
    return Parts(config, processor)


def _gemma4() -> Parts:
    import transformers as hf

    tokens: dict[str, int | None] = {
        **{"<pad>": None, "<eos>": None, "<bos>": None, "<|turn>": None, "<turn|>": None},
        **{"<|channel>": None, "<channel|>": None, "<|tool_response>": None},
        **{"<|image>": None, "<|audio>": None, "<|image|>": None, "<|audio|>": None},
        **{"<image|>": None, "<audio|>": None, "<|video|>": None},
    }
    tokenizer = build_tokenizer(
        tokens,
        end="<turn|>",
        pad="<pad>",
        begin="<bos>",
        named={
            **{"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"},
            **{"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"},
        },
        plain=["\n"],
    )
    find = tokenizer.convert_tokens_to_ids
    config = hf.Gemma4Config(
        text_config={
            **{**TEXT, "num_kv_shared_layers": 0, "global_head_dim": 32, "sliding_window": 256},
            **{"layer_types": ["sliding_attention", "full_attention"]},
            **{"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 768},
        },
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32},
            **{"position_embedding_size": 64, "default_output_length": 70},
        },
        boi_token_id=find("<|image>"),
        eoi_token_id=find("<image|>"),
        image_token_id=find("<|image|>"),
        video_token_id=find("<|video|>"),
        boa_token_id=find("<|audio>"),
        eoa_token_index=find("<audio|>"),
        audio_token_id=find("<|audio|>"),
    )
    image = hf.Gemma4ImageProcessor(max_soft_tokens=70)
    video = hf.Gemma4VideoProcessor()
    sound = hf.Gemma4AudioFeatureExtractor()
    return Parts(config, hf.Gemma4Processor(sound, image, tokenizer, video))


def _minicpm() -> Parts:
    import transformers as hf

    names = {
        **{"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        **{"image_start_token": "<image>", "image_end_token": "</image>"},
        **{"slice_start_token": "<slice>", "slice_end_token": "</slice>"},
        **{"image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
    }
    tokenizer = build_tokenizer(
        {**CHATML, **dict.fromkeys(names.values())},
        end="<|im_end|>",
        pad="<|endoftext|>",
        named=names,
    )
    config = hf.MiniCPMV4_6Config(
        text_config={**TEXT, "model_type": "qwen3"},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 112, "patch_size": 14, "insert_layer_id": 0},
        },
        image_size=112,
        insert_layer_id=0,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    image = hf.MiniCPMV4_6ImageProcessor(scale_resolution=112, max_slice_nums=2)
    video = hf.MiniCPMV4_6VideoProcessor(scale_resolution=112)
    return Parts(config, hf.MiniCPMV4_6Processor(image, video, tokenizer))


def _paddle() -> Parts:
    import transformers as hf

    tokens = {
        **{"<unk>": None, "</s>": None, "<s>": None, "<|begin_of_sentence|>": None},
        **{"<|end_of_sentence|>": None, "<|IMAGE_PLACEHOLDER|>": 100295},
        **{"<|IMAGE_START|>": 101305, "<|IMAGE_END|>": 101306},
    }
    tokenizer = build_tokenizer(
        tokens, end="</s>", pad="<unk>", named={"image_token": "<|IMAGE_PLACEHOLDER|>"}
    )
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    config = hf.PaddleOCRVLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 56},
        },
    )
    image = hf.PaddleOCRVLImageProcessor(size=SMALL)
    return Parts(config, hf.PaddleOCRVLProcessor(image, tokenizer))


def _hunyuan() -> Parts:
    import transformers as hf

    def token(name: str) -> str:
        # With the wide bars and the low blocks of Tencent's tokens.
        return f"<\uff5chy_{name.replace(' ', chr(0x2581))}\uff5c>"

    def holder(number: int) -> str:
        return token(f"place holder no {number}")

    pad = token(" pad ")
    names = {"image_token": holder(102), "image_start_token": holder(100)}
    names["image_end_token"] = holder(101)
    tokens = {
        **{token("begin of sentence"): None, token("User"): None, token("Assistant"): None},
        **{holder(2): None, holder(3): None, pad: None},
        **{holder(100): 120118, holder(101): 120119, holder(102): 120120},
    }
    tokenizer = build_tokenizer(tokens, end=holder(2), pad=pad, named=names)
    rope = {"rope_type": "default", "rope_theta": 1e4, "xdrope_section": [4, 4, 4, 4]}
    config = hf.HunYuanVLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "out_hidden_size": 64, "text_hidden_size": 64},
            **{"max_image_size": 128, "min_image_size": 32, "img_max_token_num": 64},
        },
    )
    image = hf.HunYuanVLImageProcessor(size=SMALL)
    return Parts(config, hf.HunYuanVLProcessor(image, tokenizer))


def _muse() -> Parts:
    import transformers as hf

    tokens = {
        **{"<|begin_of_text|>": None, "<|end_of_text|>": None, "<|eot|>": None, "<|eom|>": None},
        **{"<|start|>": None, "<|message|>": None, "<|patch|>": 200092, "<|video|>": 200091},
        **{"<|image_start|>": None, "<|image_end|>": None, "<|vid_frame_separator|>": None},
        **{"<|vid_start|>": None, "<|vid_end|>": None, "<|pad|>": None},
    }
    tokenizer = build_tokenizer(tokens, end="<|eot|>", pad="<|pad|>")
    config = hf.MuseGlimmerConfig(
        text_config={**TEXT, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config={
            **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2},
        },
        out_hidden_size=256,
        projector_hidden_size=64,
    )
    image = hf.MuseGlimmerImageProcessor(max_image_tokens=16)
    video = hf.MuseGlimmerVideoProcessor()
    return Parts(config, hf.MuseGlimmerProcessor(image, video, tokenizer))


FAMILIES = {
    family.template if key is None else key: family
    for key, family in (
        ("qwen2_vl", Family("Qwen2-VL", "qwen2_vl", "qwen2_vl", qwen2_vl)),
        ("qwen2_5_vl", Family("Qwen2.5-VL", "qwen2_5_vl", "qwen2_5_vl", qwen2_5_vl)),
        ("qwen3_vl", Family("Qwen3-VL", "qwen3_vl", "qwen3_vl", qwen3_vl)),
        (
            "qwen3_vl_moe",
            Family("Qwen3-VL-MoE", "qwen3_vl_moe", "qwen3_vl", lambda: qwen3_vl(True)),
        ),
        ("qwen3_5", Family("Qwen3.5", "qwen3_5", "qwen3_5", qwen3_5)),
        ("qwen3_8", Family("Qwen3.8's template", "qwen3_5", "qwen3_8", qwen3_5)),
        ("qwen3_5_moe", Family("Qwen3.5-MoE", "qwen3_5_moe", "qwen3_5", lambda: qwen3_5(True))),
        ("internvl_hf", Family("InternVL3.5", "internvl", "internvl_hf", _internvl)),
        ("glm4v", Family("GLM-4.1V", "glm4v", "glm4v", _glm)),
        ("glm4_5v", Family("GLM-4.5V", "glm4v_moe", "glm4_5v", lambda: _glm(True))),
        ("gemma3", Family("Gemma 3", "gemma3_vision", "gemma3_vision", _gemma3)),
        (
            "llava_onevision",
            Family("LLaVA-OneVision", "llava_onevision_hf", "llava_onevision_hf", _llava_onevision),
        ),
        ("gemma4", Family("Gemma 4", "gemma4", "gemma4", _gemma4)),
        ("minicpm", Family("MiniCPM-V 4.6", "minicpmv4_6", "minicpmv4_6", _minicpm)),
        ("paddle", Family("PaddleOCR-VL 1.5", "paddleocr_vl", "paddle_ocr_1_5", _paddle)),
        ("hunyuan", Family("HunyuanOCR", "hunyuan_ocr", "hunyuan_ocr", _hunyuan)),
        ("muse", Family("Muse Glimmer", "muse_glimmer", "muse_glimmer", _muse)),
    )
}
