"""Tokens that stand for pictures, films and sounds, told by their names."""

import pytest

from swift_thyme.core.placeholders import is_placeholder, placeholder_ids


@pytest.mark.parametrize(
    "token",
    [
        *("<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<|audio_pad|>", "<|audio_start|>"),
        *("<IMG_CONTEXT>", "<img>", "</img>", "<image>", "<|image|>", "<image|>", "<|image>"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>", "<|begin_of_video|>"),
        *("<|media_pad|>", "<im_patch>", "<|imgpad|>", "<|endofimg|>", "[IMG]", "[IMG_BREAK]"),
        *("<|patch|>", "<|IMAGE_PLACEHOLDER|>", "<slice>", "<|vid_frame_separator|>"),
    ],
)
def test_placeholders_are_told_by_their_names(token: str) -> None:
    assert is_placeholder(token)


@pytest.mark.parametrize(
    "token",
    [
        *("<think>", "</code>", "<sandbox_output>", "<answer>", "<|im_start|>", "<|im_end|>"),
        *(
            "<|assistant|>",
            "<start_of_turn>",
            "<|channel>",
            "<bos>",
            "</s>",
            "[INST]",
            "<tool_call>",
        ),
        *("<|box_start|>", "<|object_ref_end|>", "<|endoftext|>", "<|fim_prefix|>", "image"),
    ],
)
def test_tokens_of_texts_are_none(token: str) -> None:
    assert not is_placeholder(token)


def test_a_configuration_names_ids_at_any_depth() -> None:
    config = {
        **{"image_token_id": 7, "boi_token_index": 8, "eos_token_id": 1, "image_size": 448},
        "thinker_config": {"audio_token_id": 9, "video_token_id": None, "user_token_id": 2},
        "audio_token_ids": [10, 11],
    }
    assert set(placeholder_ids(config)) == {7, 8, 9, 10, 11}
