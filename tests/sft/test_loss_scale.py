"""Labels of the real template, token by token, and the ids of rollouts of the same text."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.testbed.data import demonstration_code
from swift_thyme.testbed.task import Box
from tests.host.test_scheduler import make_choice, make_request, make_scheduler, take_turn
from tests.sft.rows import ROWS, TOKENS

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]

IGNORED = -100
SIDE = 56
PADS_PER_IMAGE = (SIDE // 28) ** 2
QUESTION = "What is it?"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.new("RGB", (SIDE, SIDE), (200, 30, 30)).save(path)
    return str(path)


def text_of(row: list[str]) -> str:
    return "".join(piece[1:] for piece in row)


def training_row(text: str, picture: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"<image>{QUESTION}"},
            {"role": "assistant", "content": text},
        ],
        "images": [picture] * (1 + text.count("<image>")),
    }


def ids_of(template: Any, text: str) -> list[int]:
    """Tokenise one piece by hand: every image is its placeholder, expanded."""
    tokenizer = template.tokenizer
    image = [tokenizer.convert_tokens_to_ids("<|vision_start|>")]
    image += [template.image_token_id] * PADS_PER_IMAGE
    image += [tokenizer.convert_tokens_to_ids("<|vision_end|>")]
    ids: list[int] = []
    for index, part in enumerate(text.split("<image>")):
        ids += image if index else []
        ids += tokenizer.encode(part, add_special_tokens=False)
    return ids


def expected(template: Any, row: list[str]) -> tuple[list[int], list[int]]:
    prompt = f"<|im_start|>user\n<image>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    pieces = ["-" + prompt, *row, "+<|im_end|>\n"]
    ids, labels = [], []
    for piece in pieces:
        piece_ids = ids_of(template, piece[1:])
        ids += piece_ids
        labels += piece_ids if piece[0] == "+" else [IGNORED] * len(piece_ids)
    return ids, labels


def test_there_are_at_least_thirty_rows_of_one_to_four_rounds() -> None:
    rounds = {text_of(row).lower().count("<sandbox_output>") for row in ROWS.values()}
    assert len(ROWS) >= 30
    assert rounds >= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("tokenizer", ["tiny", "merging"])
@pytest.mark.parametrize("name", ROWS)
def test_the_labels_are_those_written_by_hand(
    templates: dict[str, Any], picture: str, tokenizer: str, name: str
) -> None:
    template = templates[tokenizer]
    encoded = template.encode(training_row(text_of(ROWS[name]), picture))
    ids, labels = expected(template, ROWS[name])
    assert encoded["input_ids"] == ids
    assert encoded["labels"] == labels


@pytest.mark.parametrize("name", TOKENS)
def test_the_labels_are_those_written_by_hand_token_by_token(
    templates: dict[str, Any], picture: str, name: str
) -> None:
    template = templates["tiny"]
    text, written = TOKENS[name]
    encoded = template.encode(training_row(text, picture))
    start = encoded["input_ids"].index(template.tokenizer.convert_tokens_to_ids("<|vision_end|>"))
    answer = template.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    while encoded["input_ids"][start : start + len(answer)] != answer:
        start += 1
    start += len(answer)
    tokens = []
    for token, label in zip(encoded["input_ids"][start:], encoded["labels"][start:], strict=True):
        shown = template.tokenizer.decode([token]).replace("<|image_pad|>", "[image]")
        shown = shown.replace(" ", "_").replace("\n", "\\n")
        assert label in (IGNORED, token)
        tokens.append(("-" if label == IGNORED else "+") + shown)
    assert tokens == written.split()
    assert set(encoded["labels"][:start]) == {IGNORED}


def rollout_ids(template: Any, row: list[str], picture: str) -> list[int]:
    """Encode a rollout of the row's pieces the way the GRPO trainer does."""
    from swift.rlhf_trainers.utils import replace_assistant_response_with_ids

    from swift_thyme.host.scheduler import TemplateCodec
    from swift_thyme.sandbox import Observation, ReturnedImage

    sample = training_row(text_of(row), picture)
    codec = TemplateCodec(template, sample["messages"][:1], sample["images"][:1])
    data = Path(picture).read_bytes()
    ids: list[int] = []
    mask: list[int] = []
    for piece in row:
        text = piece[1:]
        if text.lower().startswith("<sandbox_output>"):
            images = (ReturnedImage(data, SIDE, SIDE, "crop.png"),) * text.count("<image>")
            new = codec.encode_observation(Observation(text, images)).token_ids
        else:
            new = template.tokenizer.encode(text, add_special_tokens=False)
        ids += new
        mask += [int(not text.lower().startswith("<sandbox_output>"))] * len(new)
    replace_assistant_response_with_ids(sample["messages"], ids, mask)
    return list(template.encode(sample)["input_ids"])


@pytest.mark.parametrize("tokenizer", ["tiny", "merging"])
@pytest.mark.parametrize("name", ROWS)
def test_the_ids_are_those_of_a_rollout_of_the_same_text(
    templates: dict[str, Any], picture: str, tokenizer: str, name: str
) -> None:
    template = templates[tokenizer]
    encoded = template.encode(training_row(text_of(ROWS[name]), picture))
    assert encoded["input_ids"] == rollout_ids(template, ROWS[name], picture)


def test_without_borders_tokens_would_merge_across_the_tags(
    templates: dict[str, Any], picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this the tokenizer of the other tests could not show a wrong border."""
    from swift_thyme.host.loss_scale import ThymeLossScale

    template = templates["merging"]
    with_borders = ThymeLossScale.get_loss_scale

    def without_borders(self: Any, context: Any, **kwargs: Any) -> Any:
        contexts, weights = with_borders(self, context, **kwargs)
        kept = [(c, w) for c, w in zip(contexts, weights, strict=True) if c]
        return [c for c, _ in kept], [w for _, w in kept]

    monkeypatch.setattr(ThymeLossScale, "get_loss_scale", without_borders)
    merged = set()
    for row in ROWS.values():
        ids, _ = expected(template, row)
        found = template.encode(training_row(text_of(row), picture))["input_ids"]
        if found != ids:
            merged |= {template.tokenizer.decode([i]) for i in set(found) - set(ids)}
    assert merged & {">\n", "><", "><code"}


def test_a_real_rollout_and_its_text_as_a_training_row_have_the_same_ids(
    templates: dict[str, Any], tmp_path: Path
) -> None:
    """Two real blocks in the real sandbox: an image, then text."""
    template = templates["tiny"]
    source = tmp_path / "picture.jpg"
    Image.new("RGB", (448, 448), (10, 120, 200)).save(source)
    scheduler, request = make_scheduler(template), make_request(source)
    prompt = [dict(message) for message in request.messages]
    turns = [
        f"<think>Look. <code>\n```python\n{demonstration_code(Box(0, 0, 96, 96))}\n```\n</code>",
        "\nAnd <code>print(crop.size)</code>",
        "\nSo.</think>\n<answer>blue</answer>",
    ]
    sampled: list[int] = []
    for number, text in enumerate(turns, 1):
        choice = make_choice(template, text)
        result = asyncio.run(take_turn(scheduler, request, choice, number))
        sampled += choice.token_ids
        if not result["done"]:
            step = scheduler.step(request, choice, number)
            sampled = sampled[: -len(choice.token_ids)] + step["response_token_ids"]
    text = template.tokenizer.decode(sampled, skip_special_tokens=False)
    text = text.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
    assert text.count("<image>") == 1
    assert "(112, 112)" in text
    images = [str(source)]
    for number, uri in enumerate(request.images[1:]):
        path = tmp_path / f"crop{number}.png"
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).save(path)
        images.append(str(path))
    answer = {"role": "assistant", "content": text}
    encoded = template.encode({"messages": [*prompt, answer], "images": images})
    backed = {"role": "assistant", "content": sampled}
    rollout = template.encode({"messages": [*prompt, backed], "images": images})
    assert encoded["input_ids"] == rollout["input_ids"]
    trained = [i for i in encoded["labels"] if i != IGNORED]
    shown = template.tokenizer.decode(trained)
    assert shown == f"{turns[1]}{turns[2]}<|im_end|>\n"


def test_a_chain_and_a_base_strategy_keep_the_labels(
    templates: dict[str, Any], picture: str
) -> None:
    from swift.template import get_template

    row = ROWS["four rounds, mixed"]
    for name in ("ignore_empty_think+thyme", "last_round+thyme"):
        template = get_template(
            templates["merging"].processor, template_type="thyme_tiny", loss_scale=name
        )
        template.set_mode("train")
        encoded = template.encode(training_row(text_of(row), picture))
        ids, labels = expected(template, row)
        assert encoded["input_ids"] == ids
        assert encoded["labels"] == labels


def test_a_prompt_that_names_the_tag_is_left_alone(templates: dict[str, Any], picture: str) -> None:
    template = templates["tiny"]
    row = training_row(text_of(ROWS["one round, text"]), picture)
    system = "Its output comes back in <sandbox_output>."
    row["messages"].insert(0, {"role": "system", "content": system})
    labels = template.encode(row)["labels"]
    _, without = expected(template, ROWS["one round, text"])
    assert [i for i in labels if i != IGNORED] == [i for i in without if i != IGNORED]


def test_a_trainable_row_of_the_testbed_masks_the_returned_image(
    templates: dict[str, Any], tiny_data: Path
) -> None:
    template = templates["tiny"]
    row = json.loads((tiny_data / "sft.jsonl").read_text().splitlines()[0])
    encoded = template.encode(row)
    trained = [i for i in encoded["labels"] if i != IGNORED]
    assert template.image_token_id not in trained
    assert encoded["input_ids"].count(template.image_token_id) == 32
    assert "<sandbox_output>" not in template.tokenizer.decode(trained)
