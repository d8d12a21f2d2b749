"""Images behind token ids in each family's template: ids, lengths, labels; no model is loaded."""

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.observation import Observation
from tests.families.tiny_models import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore")

UNUSABLE = {"hunyuan": "pad_id"}
"""Families whose template cannot encode a picture here, and a piece of the reason."""
USABLE = [name for name in FAMILIES if name not in UNUSABLE]
STAND_INS = ("llava_onevision1_5", "keye_vl", "keye_vl_1_5")
"""Templates with code on the hub only, whose processors are made as Qwen2.5-VL's is."""

SAID = "<think><code>\nshow()\n</code>"
SHOWN = "<sandbox_output>here\n<image></sandbox_output>"


class Loaded(NamedTuple):
    """A family's template, and what makes ids with it."""

    template: Any
    codec: Any
    picture: Image.Image
    prefix: list[int]
    """What the template puts in front of a turn."""


def picture() -> Image.Image:
    return Image.effect_noise((112, 84), 60).convert("RGB")


def load(folder: Path, name: str, template_type: str) -> Loaded:
    from swift.model import get_processor
    from swift.template import get_template

    from swift_thyme.host import template_images
    from swift_thyme.host.loss_scale import add_loss_scale
    from swift_thyme.host.response_prefix import install_prefix_accounting, prefix_of
    from swift_thyme.host.template_codec import TemplateCodec
    from swift_thyme.host.template_repairs import install_template_repairs

    template_images.install_image_accounting()
    install_template_repairs()
    install_prefix_accounting()
    add_loss_scale()
    family = FAMILIES[name]
    if not folder.is_dir():
        family.write_without_weights(folder)
    processor = get_processor(str(folder), model_type=family.model_type, use_hf=True)
    template = get_template(processor, template_type=template_type, loss_scale="thyme")
    shown = picture()
    prompt = [{"role": "user", "content": "<image>What is it?"}]
    prefix = list(prefix_of(template).token_ids)
    return Loaded(template, TemplateCodec(template, prompt, [shown]), shown, prefix)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="module", params=USABLE)
def family(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(folder / request.param, request.param, FAMILIES[request.param].template)


def observation(text: str = SHOWN) -> Observation:
    data = io.BytesIO()
    shown = picture().crop((0, 0, 64, 48))
    shown.save(data, "PNG")
    images = (ReturnedImage(data.getvalue(), shown.width, shown.height, "a.png"),)
    return Observation(text, images if "<image>" in text else ())


def encode(family: Loaded, mode: str, answer: Any) -> dict[str, Any]:
    prompt = {"role": "user", "content": "<image>What is it?"}
    images = [family.picture, family.picture.crop((0, 0, 64, 48))]
    row = {"messages": [prompt, {"role": "assistant", "content": answer}], "images": images}
    family.template.set_mode(mode)
    encoded: dict[str, Any] = family.template.encode(row)
    return encoded


def turn_of(family: Loaded) -> tuple[list[int], int]:
    """Return a turn with a returned image, and its length with the image expanded."""
    said = [*family.prefix, *family.codec.encode_text(SAID)]
    seen = family.codec.encode_observation(observation())
    rest = family.codec.encode_text("fine")
    return [*said, *seen.token_ids, *rest], len(said) + seen.expanded_length + len(rest)


def test_a_trajectory_is_as_long_as_the_codec_counts(family: Loaded) -> None:
    ids, length = turn_of(family)
    encoded = encode(family, "transformers", ids)["input_ids"]
    prompt = family.codec.prompt_length() - len(family.prefix)
    assert len(encoded) == prompt + length


def test_a_returned_image_is_written_as_one_in_text(family: Loaded) -> None:
    """What a supervised row holds is what a rollout holds."""
    from swift_thyme.host.image_tokens import engine_ids, image_tokens

    ids, length = turn_of(family)
    ids, length = ids[len(family.prefix) :], length - len(family.prefix)
    lengths = {
        "transformers": length,
        "vllm": len(engine_ids(family.template, image_tokens(family.template), ids)),
    }
    for mode, n in lengths.items():
        by_ids, by_text = encode(family, mode, ids), encode(family, mode, f"{SAID}{SHOWN}fine")
        assert by_ids["input_ids"][-n:] == by_text["input_ids"][-n:]


def test_nothing_that_the_sandbox_said_is_trained_on(family: Loaded) -> None:
    labels = encode(family, "train", f"{SAID}{SHOWN}fine")["labels"]
    trained = family.codec.decode([i for i in labels if i != -100])
    assert "<code>" in trained and "fine" in trained
    assert "sandbox_output" not in trained and "here" not in trained
    assert family.codec.image_ids[0] not in labels


def test_an_image_in_the_ids_of_a_turn_has_no_label(family: Loaded) -> None:
    ids, _ = turn_of(family)
    seen = family.codec.encode_observation(observation()).token_ids
    start = len(family.prefix) + len(family.codec.encode_text(SAID))
    mask = [1] * len(ids)
    mask[start : start + len(seen)] = [0] * len(seen)
    labels = encode(family, "train", {"token_ids": ids, "loss_scale": mask})["labels"]
    assert [i for i in labels if i != -100][: sum(mask)] == [
        i for i, m in zip(ids, mask, strict=True) if m
    ]


def test_ids_for_vllm_are_those_of_the_template(family: Loaded) -> None:
    from swift_thyme.host.image_tokens import engine_ids, image_tokens

    ids, _ = turn_of(family)
    whole = encode(family, "vllm", ids)["input_ids"]
    written = engine_ids(family.template, image_tokens(family.template), ids)
    assert whole[-len(written) :] == written


def test_a_model_cannot_sample_what_stands_for_an_image(family: Loaded) -> None:
    from swift_thyme.host.image_tokens import hook_tokens

    tokens = hook_tokens(family.template)
    assert set(family.codec.image_ids) <= tokens.forbidden
    words = {family.codec.decode([i]) for i in tokens.forbidden}
    assert not words & {"<think>", "</think>", "<code>", "</code>", "<answer>", "</answer>"}
    if not tokens.turn_starts:
        # Its turns begin with words.
        assert "PaddleOCR" in type(family.template).__name__
        return
    prompt = encode(family, "vllm", turn_of(family)[0])["input_ids"]
    assert "<code>" in family.codec.decode(tokens.turn_ids(prompt))


def test_what_a_program_prints_spells_no_special_token(family: Loaded) -> None:
    special = [t.content for t in family.template.tokenizer.added_tokens_decoder.values()]
    kept = {"<think>", "<code>", "<answer>", "<sandbox_output>"}
    texts = [t for t in special if t not in kept and not t.startswith("</") and t.strip()]
    text = f"<sandbox_output>{' '.join(texts)}</sandbox_output>"
    ids = family.codec.encode_observation(observation(text.replace("<image>", ""))).token_ids
    outside = set(ids) - set(family.codec.encode_text("<sandbox_output></sandbox_output>"))
    known = family.template.tokenizer.added_tokens_decoder
    assert not {known[i].content for i in outside if i in known and known[i].special}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_template_that_cannot_encode_a_picture_is_refused_in_one_line(
    name: str, folder: Path
) -> None:
    from swift_thyme.host.template_check import check_template

    template = load(folder / name, name, FAMILIES[name].template).template
    with pytest.raises(SettingsError, match=rf"--template .*{UNUSABLE[name]}") as refused:
        check_template(template)
    assert "\n" not in str(refused.value)


def test_a_template_that_needs_a_package_names_it(folder: Path) -> None:
    from swift_thyme.host.template_check import check_template

    template = load(folder / "qwen2_5_vl", "qwen2_5_vl", "keye_vl").template
    with pytest.raises(SettingsError, match="pip install keye_vl_utils"):
        check_template(template)


@pytest.mark.parametrize("template_type", STAND_INS)
def test_templates_whose_models_are_elsewhere_carry_returned_images(
    template_type: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qwen_vl_utils

    from swift_thyme.host.template_check import check_template

    # Keye's package loads pictures as Qwen's does.
    monkeypatch.setitem(sys.modules, "keye_vl_utils", qwen_vl_utils)
    family = load(folder / "qwen2_5_vl", "qwen2_5_vl", template_type)
    check_template(family.template)
    seen = family.codec.encode_observation(observation())
    ids = [*family.codec.encode_text(SAID), *seen.token_ids]
    encoded = encode(family, "transformers", ids)
    length = len(ids) - len(seen.token_ids) + seen.expanded_length
    assert len(encoded["input_ids"]) == family.codec.prompt_length() + length
    merge = 4
    placed = int(sum(grid.prod() for grid in encoded["image_grid_thw"])) // merge
    assert encoded["input_ids"].count(family.template.image_token_id) == placed
