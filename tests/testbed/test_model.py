"""The shipped checkpoint: it loads, fits its template, encodes anything, and stays small."""

import json
import random

import pytest

from swift_thyme.core.protocol import PROTOCOL_TAGS, build_user_prompt
from swift_thyme.testbed import MODEL_DIR
from swift_thyme.testbed.data import QUESTION, SYSTEM_PROMPT, demonstration
from swift_thyme.testbed.task import Box

transformers = pytest.importorskip("transformers")

MAX_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def processor():
    return transformers.AutoProcessor.from_pretrained(MODEL_DIR)


def test_the_checkpoint_has_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in MODEL_DIR.rglob("*")) <= MAX_BYTES


def test_every_weight_is_in_the_file_and_every_one_in_the_file_is_used():
    model, info = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        MODEL_DIR, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert str(model.dtype) == "torch.bfloat16"
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 3e6


@pytest.mark.parametrize("tag", PROTOCOL_TAGS)
def test_a_tag_is_one_token_whatever_surrounds_it_and_survives_decoding(processor, tag):
    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids(tag)
    ids = tokenizer.encode(f"x.{tag}<{tag}\n", add_special_tokens=False)
    assert ids.count(token) == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"x.{tag}<{tag}\n"


def test_the_tokenizer_encodes_any_text_without_loss(processor):
    rng = random.Random(0)
    texts = [SYSTEM_PROMPT, demonstration(Box(0, 16, 96, 112), "10"), "naïve 世界 🙂\t\x00 ¡"]
    letters = [chr(c) for c in (*range(1, 0x500), *range(0x4E00, 0x4F00), 0x1F642)]
    texts += ["".join(rng.choices(letters, k=60)) for _ in range(50)]
    for text in texts:
        ids = processor.tokenizer.encode(text, add_special_tokens=False)
        assert processor.tokenizer.decode(ids) == text


def test_the_placeholder_ids_of_the_configuration_are_those_of_the_tokenizer(processor):
    config = json.loads((MODEL_DIR / "config.json").read_text())
    to_id = processor.tokenizer.convert_tokens_to_ids
    assert config["image_token_id"] == to_id("<|image_pad|>")
    assert config["video_token_id"] == to_id("<|video_pad|>")
    assert config["vision_start_token_id"] == to_id("<|vision_start|>")
    assert config["vision_end_token_id"] == to_id("<|vision_end|>")
    assert config["text_config"]["eos_token_id"] == to_id("<|im_end|>")
    assert len(processor.tokenizer) <= config["text_config"]["vocab_size"]


def test_generation_is_allowed_to_use_its_cache():
    config = json.loads((MODEL_DIR / "config.json").read_text())
    assert config["text_config"]["use_cache"] is True
    assert config["dtype"] == "bfloat16"


def test_the_chat_template_gives_the_layout_that_the_model_was_trained_on(processor):
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # importing ms-swift warns about its own dependencies
def test_the_template_encodes_a_demonstration_with_both_images_and_their_tokens(tmp_path):
    """One image in the prompt, one in the assistant's turn: 16 tokens each, none trained on."""
    pytest.importorskip("swift")
    from swift import get_processor, get_template

    from swift_thyme.host.tiny_template import TEMPLATE_NAME, TinyTemplate, add_template
    from swift_thyme.testbed.data import make_dataset

    add_template()
    add_template()
    processor = get_processor(str(MODEL_DIR), model_type="qwen2_5_vl")
    template = get_template(processor, template_type=TEMPLATE_NAME)
    assert isinstance(template, TinyTemplate)
    template.set_mode("train")
    row = json.loads(make_dataset(tmp_path, 1, 0, 0).sft.read_text())
    encoded = template.encode(row)
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert template.image_token_id == pad
    assert list(encoded["input_ids"]).count(pad) == 2 * 16
    assert encoded["image_grid_thw"].tolist() == [[1, 8, 8]] * 2
    assert pad not in encoded["labels"]
    text = processor.tokenizer.decode(encoded["input_ids"])
    prompt = build_user_prompt(QUESTION, row["images"][0], (448, 448)).replace("<image>", "")
    assert text.startswith(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n")
    assert prompt in text
