"""The o3 scheduler on the real template and sandbox; only the engine is absent."""

import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.repetition import repetition_end
from tests.pictures import camera_file, is_upright

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]

WRITES_A_CROP = (
    "<think>look <code>\n```python\n"
    "crop = Image.open(image_path).crop((0, 0, 96, 96)).resize((112, 112))\n"
    'processed_path = "/mnt/data/temp_processed_images/crop.png"\n'
    "crop.save(processed_path)\nprint(processed_path)\n```\n</code>"
)


def load_template() -> Any:
    """Return the tiny model's template, as a job has it."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_thyme.host import tiny_template
    from swift_thyme.host.template_images import (
        install_image_accounting,
        install_upright_images,
    )
    from tests.conftest import TINY_MODEL

    install_image_accounting()
    install_upright_images()
    tiny_template.add_template()
    _, processor = get_model_processor(
        str(TINY_MODEL), load_model=False, model_type="qwen2_5_vl", use_hf=True
    )
    return get_template(processor, template_type="thyme_tiny", max_length=1024)


@pytest.fixture(scope="module")
def template() -> Any:
    return load_template()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (448, 448), (10, 120, 200)).save(path)
    return path


def make_request(picture: Path, uuid: str = "a") -> SimpleNamespace:
    from swift_thyme.core.protocol import build_user_prompt

    prompt = build_user_prompt("What is it?", str(picture), (448, 448))
    data = base64.b64encode(picture.read_bytes()).decode()
    return SimpleNamespace(
        uuid=uuid,
        messages=[{"role": "user", "content": prompt}],
        images=[data],
        data_dict={"question": "What is it?"},
        chat_template_kwargs={},
    )


def request_with(
    files: Sequence[bytes], paths: Sequence[str], uuid: str = "a", images: Any = None
) -> SimpleNamespace:
    """Return a request whose prompt quotes these paths, in base64 as ms-swift hands it over."""
    from swift_thyme.core.protocol import image_lines

    lines = [image_lines(number, path, 1, 1) for number, path in enumerate(paths, 1)]
    return SimpleNamespace(
        uuid=uuid,
        messages=[{"role": "user", "content": "\n".join(["<image>" * len(files), *lines])}],
        images=images or [base64.b64encode(data).decode() for data in files],
        data_dict={"question": "Which one?"},
        chat_template_kwargs={},
    )


def observed(scheduler: Any, template: Any, request: Any, code: str) -> str:
    """Run a turn with one block and return the observation."""
    choice = make_choice(template, f"<think><code>\n{code}\n</code>")
    assert asyncio.run(take_turn(scheduler, request, choice, 1)) == {"done": False}
    ids = scheduler.step(request, choice, 1)["response_token_ids"][len(choice.token_ids) :]
    return str(template.tokenizer.decode(ids))


LOOK = """
import cv2
for path in {paths!r}:
    a = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    b = np.asarray(Image.open(path).convert('RGB'))
    at = [[int(p[h * y // 4, w * x // 4, 1] > 100) for x, y in ((1, 1), (3, 1), (1, 3), (3, 3))]
          for p in (a, b) for h, w in [p.shape[:2]]]
    print(a.shape, b.shape, at)
"""
UPRIGHT = "(48, 80, 3) (48, 80, 3) [[0, 1, 1, 1], [0, 1, 1, 1]]"


def make_choice(template: Any, text: str, finish_reason: str = "stop") -> SimpleNamespace:
    ids = template.tokenizer.encode(text, add_special_tokens=False)
    return SimpleNamespace(
        message=SimpleNamespace(content=text),
        token_ids=ids,
        finish_reason=finish_reason,
        logprobs={"content": [{"logprob": -0.5} for _ in ids]},
    )


def make_scheduler(template: Any, **limits: Any) -> Any:
    from swift_thyme.host.scheduler import O3Scheduler

    scheduler = O3Scheduler(max_turns=4, tokenizer=template.tokenizer, template=template)
    scheduler._limits = scheduler._limits._replace(**limits)
    return scheduler


async def take_turn(scheduler: Any, request: Any, choice: Any, turn: int) -> dict[str, Any]:
    if turn == 1:
        await scheduler.on_trajectory_start([request])
    scheduler.append_assistant_completion(request, choice.message.content)
    result: dict[str, Any] = await scheduler.on_turn_end(request, choice, turn)
    return result


def test_a_returned_image_becomes_one_placeholder_that_the_template_expands(
    template: Any, picture: Path
) -> None:
    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, WRITES_A_CROP)
    assert asyncio.run(take_turn(scheduler, request, choice, 1)) == {"done": False}
    step = scheduler.step(request, choice, 1)
    ids, mask = step["response_token_ids"], step["response_loss_mask"]
    assert ids[: len(choice.token_ids)] == choice.token_ids
    assert mask == [1] * len(choice.token_ids) + [0] * (len(ids) - len(choice.token_ids))
    assert ids.count(template.image_token_id) == 1
    assert len(step["rollout_logprobs"]) == len(choice.token_ids)
    assert len(request.images) == 2
    returned = Image.open(io.BytesIO(base64.b64decode(request.images[1].partition(",")[2])))
    assert returned.size == (112, 112)
    scheduler.set_assistant_message_token_ids(request, ids)
    encoded = template.encode({"messages": request.messages, "images": request.images})
    assert encoded["input_ids"].count(template.image_token_id) == 2 * 16
    assert encoded["image_grid_thw"].shape[0] == 2


def test_the_counted_length_is_the_length_of_the_encoded_sample(
    template: Any, picture: Path
) -> None:
    from swift_thyme.host.template_codec import TemplateCodec
    from swift_thyme.sandbox import Observation, ReturnedImage

    request = make_request(picture)
    codec = TemplateCodec(template, request.messages, request.images)
    prompt = template.encode({"messages": request.messages, "images": request.images})
    assert codec.prompt_length() == len(prompt["input_ids"])
    buffer = io.BytesIO()
    Image.new("RGB", (300, 80)).save(buffer, format="PNG")
    returned = ReturnedImage(buffer.getvalue(), 300, 80, "a.png")
    observation = Observation("<sandbox_output>5<image></sandbox_output>", (returned,))
    encoded = codec.encode_observation(observation)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    messages = [*request.messages, {"role": "assistant", "content": encoded.token_ids}]
    whole = template.encode({"messages": messages, "images": [*request.images, uri]})
    suffix = template.tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    n_suffix = len(whole["input_ids"]) - len(prompt["input_ids"]) - encoded.expanded_length
    assert 0 <= n_suffix <= len(suffix)


def test_a_finished_trajectory_carries_its_summary_and_its_images(
    template: Any, picture: Path
) -> None:
    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, WRITES_A_CROP)
    asyncio.run(take_turn(scheduler, request, choice, 1))
    scheduler.set_assistant_message_token_ids(
        request, scheduler.step(request, choice, 1)["response_token_ids"]
    )
    final = make_choice(template, "</think>\n<answer>4</answer>")
    result = asyncio.run(take_turn(scheduler, request, final, 2))
    assert result["done"] is True
    infos = result["rollout_infos"]
    assert infos["thyme_end_reason"] == "answer"
    assert infos["thyme_images"] == 1
    assert infos["thyme_tool_used"] is True
    assert len(infos["images"]) == 2
    assert infos["thyme_turns"] == 2
    assert final.finish_reason == "stop"


def test_an_engine_that_computes_no_numbers_ends_the_job(template: Any, picture: Path) -> None:
    from swift_thyme.core.errors import EngineError

    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, WRITES_A_CROP)
    choice.logprobs["content"][-1]["logprob"] = float("nan")
    with pytest.raises(EngineError, match=r"\(NaN\).* try another --torch_dtype"):
        asyncio.run(take_turn(scheduler, request, choice, 1))


def test_a_turn_over_the_length_limit_is_cut_in_ids_mask_logprobs_and_text(
    template: Any, picture: Path
) -> None:
    scheduler, request = make_scheduler(template, max_sampled_tokens=3), make_request(picture)
    choice = make_choice(template, "<think>What number is on the plate?")
    result = asyncio.run(take_turn(scheduler, request, choice, 1))
    assert result["done"] is True
    assert result["response_token_ids"] == choice.token_ids[:3]
    assert result["response_loss_mask"] == [1, 1, 1]
    assert result["rollout_logprobs"] == [-0.5] * 3
    assert choice.finish_reason == "length"
    assert request.messages[-1]["content"] == template.tokenizer.decode(choice.token_ids[:3])


def test_a_failing_sandbox_ends_one_sample_and_leaves_the_others(
    template: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift_thyme.core.errors import SandboxUnavailableError

    scheduler = make_scheduler(template)
    bad, good = make_request(picture, "bad"), make_request(picture, "good")
    open_session = scheduler._open_session

    async def sometimes(request: Any) -> Any:
        if request.uuid == "bad":
            raise SandboxUnavailableError("no worker")
        return await open_session(request)

    monkeypatch.setattr(scheduler, "_open_session", sometimes)

    async def both() -> list[dict[str, Any]]:
        return list(
            await asyncio.gather(
                *[
                    take_turn(scheduler, request, make_choice(template, WRITES_A_CROP), 1)
                    for request in (bad, good)
                ]
            )
        )

    first, second = asyncio.run(both())
    assert first["done"] is True
    assert first["rollout_infos"]["thyme_end_reason"] == "sandbox_failure"
    assert bad.messages[-1]["content"] == WRITES_A_CROP
    assert second == {"done": False}


def test_an_unreadable_prompt_image_names_the_row(template: Any, tmp_path: Path) -> None:
    from swift_thyme.core.errors import DataError

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is not a picture")
    scheduler, request = make_scheduler(template), make_request(broken)
    with pytest.raises(DataError, match="What is it"):
        asyncio.run(scheduler.on_trajectory_start([request]))


def test_the_limits_agree_with_each_other(template: Any) -> None:
    from swift_thyme.host.scheduler import limits_from_arguments

    arguments = SimpleNamespace(
        use_vllm=True,
        vllm_max_model_len=512,
        vllm_limit_mm_per_prompt={"image": 3},
        completion_length_limit_scope="total",
        max_completion_length=100,
    )
    limits = limits_from_arguments(arguments, template, 5)
    assert limits.max_total_tokens == 512
    assert limits.max_images == 3
    assert limits.max_sampled_tokens == 100
    assert limits.max_turns == 5
    arguments.use_vllm = False
    assert limits_from_arguments(arguments, template, 5).max_total_tokens == 1024


def test_a_scheduler_without_a_template_says_what_is_missing(template: Any) -> None:
    from swift_thyme.core.errors import SettingsError
    from swift_thyme.host.scheduler import O3Scheduler

    with pytest.raises(SettingsError, match="needs a template"):
        O3Scheduler(max_turns=4, tokenizer=template.tokenizer)


def test_more_placeholders_than_images_is_an_error_that_says_so(
    template: Any, picture: Path
) -> None:
    from swift_thyme.core.errors import DataError

    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [template.image_token_id, template.image_token_id]},
    ]
    with pytest.raises(DataError, match="2 image placeholders"):
        template.encode({"messages": messages, "images": [str(picture)]})


def test_a_loop_is_cut_and_counts_as_truncated(template: Any, picture: Path) -> None:
    scheduler, request = make_scheduler(template), make_request(picture)
    loop = template.tokenizer.encode("The plate is near. " * 300, add_special_tokens=False)
    choice = make_choice(template, "x")
    choice.token_ids = [*loop[: repetition_end(loop)], template.tokenizer.eos_token_id]
    choice.logprobs = {"content": [{"logprob": -0.5} for _ in choice.token_ids]}
    choice.message.content = template.tokenizer.decode(choice.token_ids[:-1])
    scheduler._limits = scheduler._limits._replace(max_total_tokens=None)
    result = asyncio.run(take_turn(scheduler, request, choice, 1))
    assert result["rollout_infos"]["thyme_end_reason"] == "repetition"
    assert choice.finish_reason == "length"
    assert result["response_token_ids"] == choice.token_ids[:-1]
    assert len(result["rollout_logprobs"]) == sum(result["response_loss_mask"])


def test_code_tokens_are_left_out_of_the_loss_where_that_is_asked_for(
    template: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_TRAIN_CODE_TOKENS", "false")
    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, WRITES_A_CROP)
    choice.logprobs["content"] = [{"logprob": -float(i)} for i in range(len(choice.token_ids))]
    assert asyncio.run(take_turn(scheduler, request, choice, 1)) == {"done": False}
    step = scheduler.step(request, choice, 1)
    ids, mask = step["response_token_ids"], step["response_loss_mask"]
    assert len(ids) == len(mask)
    trained = template.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert trained == "<think>look <code>"
    assert step["rollout_logprobs"] == [-float(i) for i, m in enumerate(mask) if m]
    scheduler.set_assistant_message_token_ids(request, ids)
    final = make_choice(template, "It is 4.</think><answer>4</answer>")
    result = asyncio.run(take_turn(scheduler, request, final, 2))
    assert result["done"] is True
    assert result.get("response_loss_mask", [1]).count(0) == 0


def test_a_turn_without_trained_tokens_gives_ms_swift_no_log_probabilities(
    template: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_TRAIN_CODE_TOKENS", "false")
    scheduler, request = make_scheduler(template), make_request(picture)
    first = make_choice(template, "<think><code>\nprint('</answer>")
    assert asyncio.run(take_turn(scheduler, request, first, 1)) == {"done": False}
    step = scheduler.step(request, first, 1)
    scheduler.set_assistant_message_token_ids(request, step["response_token_ids"])
    second = make_choice(template, "')\n</code>")
    assert asyncio.run(take_turn(scheduler, request, second, 2)) == {"done": False}
    step = scheduler.step(request, second, 2)
    assert sum(step["response_loss_mask"]) == 0
    assert step["rollout_logprobs"] == []
    # What ms-swift would fall back to.
    assert second.logprobs is None


def test_a_sampled_placeholder_says_that_the_hook_is_not_loaded(
    template: Any, picture: Path
) -> None:
    from swift_thyme.core.errors import SettingsError

    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, "<think><|image_pad|>")
    with pytest.raises(SettingsError, match="samples without the hook"):
        asyncio.run(take_turn(scheduler, request, choice, 1))


def test_the_model_and_its_code_see_the_same_upright_pictures(template: Any) -> None:
    import copy

    scheduler = make_scheduler(template)
    files = [camera_file("JPEG", 6), camera_file("PNG", 8)]
    request = request_with(files, ["/d/phone.jpg", "/d/phone.png"])
    text = observed(
        scheduler, template, request, LOOK.format(paths=["/d/phone.jpg", "/d/phone.png"])
    )
    assert text.count(UPRIGHT) == 2, text
    for mode in ("vllm", "train"):
        seen = copy.copy(template)
        seen.mode = mode
        for image in (request.images[0], request.images[1], {"bytes": files[1], "path": None}):
            encoded = seen.encode(
                {"messages": [{"role": "user", "content": "<image>"}], "images": [image]}
            )
            if mode == "vllm":
                assert is_upright(encoded["images"][0])
            else:
                _, rows, columns = encoded["image_grid_thw"][0].tolist()
                assert columns > rows


def test_a_picture_that_is_upright_is_shown_byte_for_byte(template: Any, picture: Path) -> None:
    import hashlib

    scheduler, request = make_scheduler(template), make_request(picture)
    code = f"import hashlib\nprint(hashlib.md5(open({str(picture)!r}, 'rb').read()).hexdigest())"
    text = observed(scheduler, template, request, code)
    assert hashlib.md5(picture.read_bytes()).hexdigest() in text


def test_trajectories_of_a_row_read_its_picture_once_and_decode_an_upright_one_never(
    template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift_thyme.host import input_images

    calls: list[str] = []
    for name in ("locate", "upright_bytes"):
        real = getattr(input_images, name)
        monkeypatch.setattr(
            input_images,
            name,
            lambda *args, name=name, real=real: (calls.append(name), real(*args))[1],
        )
    scheduler = make_scheduler(template)
    for orientation, expected in ((1, ["locate"]), (6, ["locate", "upright_bytes"])):
        calls.clear()
        data = camera_file("JPEG", orientation)
        requests = [request_with([data], ["/d/a.jpg"], f"{orientation}-{n}") for n in range(8)]
        asyncio.run(scheduler.on_trajectory_start(requests))
        assert calls == expected


def test_a_finished_trajectory_leaves_no_picture_behind(template: Any, picture: Path) -> None:
    import gc

    scheduler, request = make_scheduler(template), make_request(picture)
    choice = make_choice(template, "<think>x</think><answer>4</answer>")
    assert asyncio.run(take_turn(scheduler, request, choice, 1))["done"] is True
    gc.collect()
    assert not scheduler._placed
    assert not scheduler._pictures._in_use


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("pictures/a.jpg", "'pictures/a.jpg', which is not an absolute path"),
        ("/d/../a.jpg", "'/d/../a.jpg', which is not an absolute path"),
        ("/usr/pictures/a.jpg", "which lies in /usr, where the sandbox can place nothing"),
        ("/proc/a.jpg", "which lies in /proc"),
        ("/" + "x" * 300, "which is longer than a path can be"),
        ("/a\0b", "which is not an absolute path"),
    ],
)
def test_a_path_at_which_nothing_can_be_placed_names_the_row(
    template: Any, path: str, words: str
) -> None:
    from swift_thyme.core.errors import DataError

    scheduler = make_scheduler(template)
    request = request_with([camera_file("PNG", 1)], [path])
    with pytest.raises(DataError, match="Which one") as error:
        asyncio.run(scheduler.on_trajectory_start([request]))
    assert words in str(error.value)


def test_a_path_that_the_sandbox_itself_refuses_names_the_row(template: Any) -> None:
    from swift_thyme.core.errors import DataError

    scheduler = make_scheduler(template)
    request = request_with([camera_file("PNG", 1)], ["/mnt/data"])
    choice = make_choice(template, "<think><code>\nprint(1)\n</code>")
    with pytest.raises(DataError, match=r"Which one.*cannot be placed"):
        asyncio.run(take_turn(scheduler, request, choice, 1))


@pytest.mark.parametrize("register", ["register_all", "register_loss_scale"])
def test_rollouts_and_supervised_training_both_turn_pictures(
    register: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.template import Template
    from swift.template.templates.qwen import Qwen2VLTemplate

    from swift_thyme.host import register as plugins

    base = getattr(Template._load_image, "__wrapped__", Template._load_image)
    monkeypatch.setattr(Template, "_load_image", staticmethod(base))
    data = camera_file("JPEG", 6)
    assert not is_upright(Qwen2VLTemplate._load_image(data, True))
    for _ in range(2):
        getattr(plugins, register)()
        assert is_upright(Qwen2VLTemplate._load_image(data, True))
