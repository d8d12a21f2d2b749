"""Response prefixes on the real template, scheduler and sandbox; only the engine is absent."""

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.samples import read_samples
from swift_thyme.host.response_prefix import (
    ResponsePrefix,
    check_prefix,
    check_server,
    prefix_of,
    warn_about_format,
)
from swift_thyme.rewards.format import follows_format
from tests.host.test_scheduler import make_choice, make_request, make_scheduler, take_turn
from tests.sft.tokenizers import merging_tokenizer, with_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]

THOUGHT, EMPTY, OTHER = "<think>\n", "<think>\n\n</think>\n\n", "\nLet us see: "
PREFIXES = {"thought": THOUGHT, "empty thought": EMPTY, "other": OTHER}
IGNORED = -100
CALL = "Add. <code>\n```python\nprint(17 + 25)\n```\n</code>"
OUTPUT = "<sandbox_output>42</sandbox_output>"
REST = "So.</think>\n<answer>42</answer>"


def opened(prefix: str) -> str:
    """Return what a model writes first after the prefix, for a completion in the format."""
    return "" if prefix == THOUGHT else "<think>"


@pytest.fixture(scope="module")
def processors() -> dict[str, Any]:
    from swift.model import get_model_processor
    from swift.template import register_template
    from swift.template.templates.qwen import QwenTemplateMeta

    from swift_thyme.host import loss_scale, tiny_template
    from swift_thyme.host.response_prefix import install_prefix_accounting
    from swift_thyme.host.template_images import install_image_accounting
    from tests.conftest import TINY_MODEL

    install_image_accounting()
    install_prefix_accounting()
    tiny_template.add_template()
    loss_scale.add_loss_scale()
    # The prefixes are those of Qwen3.5, 3.6 and 3.8.
    register_template(
        QwenTemplateMeta(
            "thyme_thinking",
            template_cls=tiny_template.TinyTemplate,
            default_system=None,
            thinking_prefix=THOUGHT,
            non_thinking_prefix=EMPTY,
            is_thinking=True,
        ),
        exist_ok=True,
    )
    _, processor = get_model_processor(
        str(TINY_MODEL), load_model=False, model_type="qwen2_5_vl", use_hf=True
    )
    merging = with_tokenizer(processor, merging_tokenizer(processor.tokenizer))
    return {"tiny": processor, "merging": merging}


def make_template(processor: Any, name: str = "thyme_tiny", **options: Any) -> Any:
    from swift.template import get_template

    template = get_template(processor, template_type=name, max_length=1024, **options)
    template.set_mode("vllm")
    return template


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return PREFIXES[request.param]


@pytest.fixture(params=["tiny", "merging"])
def template(request: pytest.FixtureRequest, processors: dict[str, Any], prefix: str) -> Any:
    return make_template(processors[request.param], response_prefix=prefix)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (56, 56), (200, 30, 30)).save(path)
    return path


def trained(template: Any, messages: list[dict[str, Any]], images: list[Any]) -> Any:
    """Encode a row as a trainer does, and return it with its loss mask."""
    template = copy.copy(template)
    template.set_mode("train")
    return template.encode({"messages": messages, "images": images})


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "qwen3_8"])
@pytest.mark.usefixtures("processors")
def test_the_templates_of_thinking_models_are_of_the_family(name: str) -> None:
    from swift.template import TEMPLATE_MAPPING
    from swift.template.templates.qwen import Qwen2VLTemplate

    meta = TEMPLATE_MAPPING[name]
    assert meta.template_cls._swift_encode is Qwen2VLTemplate._swift_encode
    assert meta.thinking_prefix == THOUGHT
    assert meta.non_thinking_prefix == ("" if name == "qwen3_vl" else EMPTY)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, EMPTY),
        ({"enable_thinking": False}, EMPTY),
        ({"enable_thinking": True}, THOUGHT),
        ({"enable_thinking": True, "response_prefix": "<think>"}, "<think>"),
        ({"response_prefix": ""}, ""),
    ],
)
def test_the_prefix_of_a_thinking_models_template(
    processors: dict[str, Any], options: dict[str, Any], text: str
) -> None:
    template = make_template(processors["tiny"], "thyme_thinking", **options)
    prefix = prefix_of(template)
    assert prefix.text == text
    assert template.tokenizer.decode(prefix.token_ids) == text


def test_a_row_may_say_which_prefix_it_has(processors: dict[str, Any]) -> None:
    template = make_template(processors["tiny"], "thyme_thinking")
    assert prefix_of(template, {"enable_thinking": True}).text == THOUGHT


@pytest.mark.parametrize("text", ["<code>\n", "<think>\n<Code>", "a <answer>", "<thi", "<image>x"])
def test_a_prefix_that_opens_something_in_the_models_name_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is for the model to write"):
        check_prefix(text)


def test_the_prompt_ends_with_the_prefix_as_tokens_of_its_own(
    template: Any, prefix: str, picture: Path
) -> None:
    messages = [{"role": "user", "content": "<image>What is it?"}]
    row = {"messages": messages, "images": [str(picture)]}
    without = copy.copy(template)
    without.response_prefix = ""
    ids = template.encode(row)["input_ids"]
    assert ids == [*without.encode(row)["input_ids"], *prefix_of(template).token_ids]


def test_without_a_border_the_prefix_would_merge_with_the_prompt(
    processors: dict[str, Any],
) -> None:
    """Without this the tokenizers of the other tests could not show a wrong border."""
    tokenizer = processors["merging"].tokenizer
    joined = tokenizer.encode(f"assistant\n{OTHER}", add_special_tokens=False)
    apart = [tokenizer.encode(text, add_special_tokens=False) for text in ("assistant\n", OTHER)]
    assert joined != apart[0] + apart[1]


class Rollout:
    """A trajectory of two turns through the scheduler, as ms-swift's loops drive it."""

    def __init__(self, template: Any, picture: Path, turns: list[str]) -> None:
        self.template = template
        self.scheduler = make_scheduler(template)
        self.request = make_request(picture)
        self.request.images = [str(picture)]
        self.prompt = [dict(message) for message in self.request.messages]
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.prompts: list[list[int]] = []
        self.infos: dict[str, Any] = {}
        for number, text in enumerate(turns, 1):
            self._turn(number, text)

    def _turn(self, number: int, text: str) -> None:
        scheduler, request = self.scheduler, self.request
        encoded = self.template.encode({"messages": request.messages, "images": request.images})
        self.prompts.append(encoded["input_ids"])
        choice = make_choice(self.template, text)
        # ms-swift's engines decode a turn with the prefix in front, whichever turn it is.
        choice.message.content = self.template.decode_generate_ids(choice.token_ids)
        result = asyncio.run(take_turn(scheduler, request, choice, number))
        if result["done"]:
            self.infos = result["rollout_infos"]
            ids, mask = scheduler.get_response_token_data(
                request, choice, is_continuation=number > 1
            )
            self.ids, self.mask = self.ids + ids, self.mask + mask
            return
        step = scheduler.step(request, choice, number)
        # What `swift rollout` appends as it is, and colocate mode after this check.
        ids, mask = step["response_token_ids"], step["response_loss_mask"]
        assert scheduler.get_response_token_data(
            request,
            choice,
            is_continuation=number > 1,
            response_token_ids=ids,
            response_loss_mask=mask,
        ) == (ids, mask)
        self.ids, self.mask = self.ids + ids, self.mask + mask
        scheduler.set_assistant_message_token_ids(request, self.ids)

    @property
    def completion(self) -> str:
        return str(self.request.messages[-1]["content"])


@pytest.fixture
def rollout(template: Any, prefix: str, picture: Path) -> Iterator[Rollout]:
    yield Rollout(template, picture, [opened(prefix) + CALL, REST])


def test_the_ids_of_a_rollout_hold_the_prefix_once_and_do_not_train_it(
    rollout: Rollout, prefix: str
) -> None:
    encode = rollout.template.tokenizer.encode
    pieces = [
        (prefix, 0), (opened(prefix) + CALL, 1), (OUTPUT, 0), (REST, 1)
    ]  # fmt: skip
    apart = [(encode(text, add_special_tokens=False), m) for text, m in pieces]
    assert rollout.ids == [i for ids, _ in apart for i in ids]
    assert rollout.mask == [m for ids, m in apart for _ in ids]


def test_the_prompt_of_a_later_turn_holds_the_prefix(rollout: Rollout) -> None:
    first, second = rollout.prompts
    n_prefix = len(prefix_of(rollout.template).token_ids)
    turn = first[len(first) - n_prefix :] + rollout.ids[n_prefix:]
    observed = len(rollout.template.tokenizer.encode(REST, add_special_tokens=False))
    assert second == first[: len(first) - n_prefix] + turn[: len(turn) - observed]


def test_the_trainer_sees_what_the_engine_saw(rollout: Rollout) -> None:
    from swift.rlhf_trainers.utils import (
        get_response_prefix_ids,
        replace_assistant_response_with_ids,
    )

    messages = replace_assistant_response_with_ids(
        [*copy.deepcopy(rollout.prompt), {"role": "assistant", "content": rollout.completion}],
        [rollout.ids],
        [rollout.mask],
        non_thinking_prefix_ids=get_response_prefix_ids(rollout.template),
    )
    encoded = trained(rollout.template, messages, rollout.request.images)
    labels = [i for i in encoded["labels"] if i != IGNORED]
    n = len(labels) - sum(rollout.mask)
    sampled = [i for i, m in zip(rollout.ids, rollout.mask, strict=True) if m]
    assert labels[: len(labels) - n] == sampled
    # Placeholders are expanded in training alone.
    pad = rollout.template.image_token_id
    once = [i for k, i in enumerate(encoded["input_ids"]) if i != pad or k == 0 or
            encoded["input_ids"][k - 1] != pad]  # fmt: skip
    assert once[: len(rollout.prompts[1])] == rollout.prompts[1]


def test_rewards_read_the_prefix_once(rollout: Rollout, prefix: str) -> None:
    assert rollout.completion == f"{prefix}{opened(prefix)}{CALL}{OUTPUT}{REST}"
    assert follows_format(rollout.completion) is (prefix != OTHER)
    (sample,) = read_samples([rollout.completion], {})
    assert sample.answer == "42"
    assert sample.reasoning.split() == ["Add.", "So."]


def test_a_supervised_row_has_the_ids_and_the_mask_of_the_rollout(
    rollout: Rollout, prefix: str, processors: dict[str, Any]
) -> None:
    supervised = copy.copy(rollout.template)
    supervised._loss_scale = "thyme"
    backed = {
        "role": "assistant",
        "content": {"token_ids": rollout.ids, "loss_scale": rollout.mask},
    }
    wanted = trained(rollout.template, [*rollout.prompt, backed], rollout.request.images)
    text = f"{opened(prefix)}{CALL}{OUTPUT}{REST}"
    rows = [prefix + text]
    rows += [f"<think>{text}", f"<think>\n{text}"] if prefix == THOUGHT else [text]
    rows += [f"<think></think>{text}"] if prefix == EMPTY else []
    for row in rows:
        messages = [*rollout.prompt, {"role": "assistant", "content": row}]
        encoded = trained(supervised, messages, rollout.request.images)
        assert encoded["input_ids"] == wanted["input_ids"], row
        assert encoded["labels"] == wanted["labels"], row


def test_a_row_without_a_thought_is_not_given_an_open_one(
    processors: dict[str, Any], picture: Path
) -> None:
    template = make_template(processors["tiny"], response_prefix=THOUGHT, loss_scale="thyme")
    plain = make_template(processors["tiny"], loss_scale="thyme")
    messages = [
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": "<answer>red</answer>"},
    ]
    rows = [trained(t, messages, [str(picture)]) for t in (template, plain)]
    assert rows[0]["input_ids"] == rows[1]["input_ids"]
    assert rows[0]["labels"] == rows[1]["labels"]


def test_the_rows_of_a_thinking_models_template_are_those_of_its_rollouts(
    processors: dict[str, Any], picture: Path
) -> None:
    """Its ``</think>`` after an output is trained too, whatever ms-swift adds to the loss scale."""
    template = make_template(
        processors["tiny"], "thyme_thinking", loss_scale="thyme+ignore_empty_think"
    )
    call = "<think>Add. <code>print(17 + 25)</code>"
    text = f"{call}{OUTPUT}</think>\n<answer>42</answer>"
    messages = [
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": text},
    ]
    encoded = trained(template, messages, [str(picture)])
    decode = template.tokenizer.decode
    start = encoded["input_ids"].index(prefix_of(template).token_ids[0])
    assert decode(encoded["input_ids"][start:]) == f"{EMPTY}{text}<|im_end|>\n"
    labels = [i for i in encoded["labels"] if i != IGNORED]
    assert decode(labels) == f"{call}</think>\n<answer>42</answer><|im_end|>\n"


def test_other_loss_scales_leave_the_rows_to_ms_swift(
    processors: dict[str, Any], picture: Path
) -> None:
    template = make_template(processors["tiny"], response_prefix=OTHER)
    messages = [
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": "red"},
    ]
    ids = trained(template, messages, [str(picture)])["input_ids"]
    assert OTHER not in template.tokenizer.decode(ids)


def test_the_earlier_turns_of_a_row_keep_ms_swifts_treatment_where_they_are_not_trained(
    processors: dict[str, Any],
) -> None:
    template = make_template(
        processors["tiny"], response_prefix=THOUGHT, loss_scale="last_round+thyme"
    )
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nx</think><answer>1</answer>"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "<think>\ny</think><answer>2</answer>"},
    ]
    encoded = trained(template, messages, [])
    labels = [i for i in encoded["labels"] if i != IGNORED]
    assert template.tokenizer.decode(labels) == "y</think><answer>2</answer><|im_end|>\n"
    whole = make_template(processors["tiny"], response_prefix=THOUGHT, loss_scale="thyme")
    labels = [i for i in trained(whole, messages, [])["labels"] if i != IGNORED]
    assert template.tokenizer.decode(labels) == (
        "x</think><answer>1</answer><|im_end|>\ny</think><answer>2</answer><|im_end|>\n"
    )


def test_a_server_and_a_trainer_with_different_prefixes_are_told(
    rollout: Rollout, processors: dict[str, Any]
) -> None:
    samples = [kept_sample(rollout)]
    check_server(samples, rollout.template)
    other = make_template(processors["tiny"], "thyme_thinking", enable_thinking=True)
    if prefix_of(other).text == prefix_of(rollout.template).text:
        other = make_template(processors["tiny"])
    with pytest.raises(SettingsError, match=r"swift rollout.*give both the same --response_prefix"):
        check_server(samples, other)
    samples[0].rollout_infos = {}
    check_server(samples, other)


def test_a_prefix_that_rules_the_format_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    for text in (THOUGHT, EMPTY, ""):
        warn_about_format(ResponsePrefix(text))
    assert not caplog.records
    warn_about_format(ResponsePrefix(OTHER))
    assert "fmt_orm" in caplog.text


def test_a_rollout_that_begins_otherwise_has_no_prefix_to_split_off() -> None:
    prefix = ResponsePrefix("ab", (1, 2))
    assert prefix.split([1, 2, 3], [0, 0, 1]) == ([3], [1])
    assert prefix.split([1, 2, 3], [1, 1, 1]) == ([1, 2, 3], [1, 1, 1])
    assert prefix.split([2, 1, 3], [0, 0, 1]) == ([2, 1, 3], [0, 0, 1])


def test_a_kept_trajectory_reads_as_the_rewards_read_it(rollout: Rollout, prefix: str) -> None:
    from swift_thyme.host.rollout_records import record_of

    kept = record_of(
        kept_sample(rollout), rollout.template.tokenizer.decode, prefix_of(rollout.template)
    )
    assert kept.record.completion == rollout.completion
    assert [segment.text for segment in kept.record.segments[:3]] == [
        f"{prefix}{opened(prefix)}Add. ", CALL[len("Add. ") :], OUTPUT
    ]  # fmt: skip
    counted = [s.tokens or 0 for s in kept.record.segments if s.text != OUTPUT]
    assert sum(counted) == sum(rollout.mask)


def kept_sample(rollout: Rollout) -> SimpleNamespace:
    """Return the trainer's sample of a rollout."""
    return SimpleNamespace(
        request_id="chatcmpl-1",
        prompt_id="p1",
        messages=rollout.request.messages,
        images=rollout.request.images,
        response_token_ids=[rollout.ids],
        response_loss_mask=[rollout.mask],
        rollout_infos=rollout.infos,
        extra={},
        encoded={"length": 1000},
    )
