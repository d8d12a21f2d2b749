"""What is said about a job's numbers before anything of it is loaded."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.finding import Finding, State
from swift_thyme.host import preflight as module
from swift_thyme.host.gpu_memory import memory_notes, training_gib
from swift_thyme.host.job_plan import JobPlan, plan_of
from swift_thyme.host.model_on_disk import ModelFacts, look_at_model, tokens_of
from swift_thyme.host.preflight import preflight
from tests.conftest import TINY_MODEL

QWEN = look_at_model("Qwen/Qwen2.5-VL-7B-Instruct")
SEVEN_B = ModelFacts(28, QWEN.default_pixels, parameters=8_000_000_000, kv_bytes_per_token=57_344)
RECIPE = JobPlan(
    processes=8,
    model="Qwen/Qwen2.5-VL-7B-Instruct",
    tuner_type="full",
    learning_rate=5e-7,
    gradient_accumulation_steps=5,
    num_generations=4,
    max_length=10240,
    max_completion_length=3196,
    max_pixels=2408448,
    use_vllm=True,
    vllm_mode="colocate",
    vllm_max_model_len=10240,
    vllm_gpu_memory_utilization=0.55,
    deepspeed="zero3",
    beta=0.01,
)


@pytest.fixture
def plan(tmp_path: Path) -> JobPlan:
    """The recipe, with one row whose picture has 3000x2000 pixels."""
    return replace(RECIPE, dataset=(str(write_rows(tmp_path, (3000, 2000))),))


def write_rows(folder: Path, *sizes: tuple[int, int], images: int = 1) -> Path:
    rows = []
    for number, size in enumerate(sizes):
        picture = folder / f"{number}.png"
        Image.new("L", size).save(picture, compress_level=1)
        message = {"role": "user", "content": "<image>" * images + "How many?" * 10}
        rows.append({"messages": [message], "images": [str(picture)] * images})
    path = folder / "rl.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def note(plan: JobPlan, subject: str) -> Finding:
    (found,) = (n for n in preflight(plan) if n.subject == subject)
    return found


def test_the_recipe_fits(plan: JobPlan) -> None:
    assert {n.subject for n in preflight(plan) if n.state is not State.OK} == set()


@pytest.mark.parametrize(
    ("size", "limit", "tokens"),
    [
        ((3000, 2000), None, 107 * 71),
        ((3000, 2000), 2408448, 67 * 45),
        ((448, 448), None, 256),
        ((10, 10), None, 1),
    ],
)
def test_tokens_of_a_picture(size: tuple[int, int], limit: int | None, tokens: int) -> None:
    assert tokens_of(size, QWEN, limit) == tokens


def test_tokens_are_those_of_qwens_own_function() -> None:
    vision = pytest.importorskip("qwen_vl_utils.vision_process")
    for size in [(3000, 2000), (613, 4000), (64, 64), (12000, 9000), (1009, 1013)]:
        for limit in (2408448, 3211264, 16384 * 784):
            rows, columns = vision.smart_resize(size[1], size[0], 28, 784, limit)
            assert tokens_of(size, QWEN, limit) == rows * columns // 784


def test_the_embedded_model_shrinks_pictures_by_itself() -> None:
    facts = look_at_model(str(TINY_MODEL))
    assert tokens_of((448, 448), facts, None) == 16
    assert facts.parameters is not None and 1_000_000 < facts.parameters < 10_000_000


def test_a_family_with_larger_patches_is_known_by_its_name() -> None:
    assert look_at_model("Qwen/Qwen3-VL-8B-Instruct").factor_px == 32


def test_a_picture_that_leaves_no_room_for_returned_ones(plan: JobPlan) -> None:
    found = note(replace(plan, max_pixels=None), "pictures")
    assert found.state is State.LOOK
    assert "3000x2000: 7597 tokens" in found.text
    assert "set MAX_PIXELS=" in found.advice
    pixels = int(found.advice.partition("MAX_PIXELS=")[2].partition(",")[0])
    assert note(replace(plan, max_pixels=pixels), "pictures").state is State.OK


def test_pictures_none_of_which_fits_are_an_error(plan: JobPlan) -> None:
    found = note(replace(plan, max_length=2048, max_completion_length=256), "pictures")
    assert found.state is State.BROKEN
    assert "no prompt fits into 2048" in found.text


@pytest.mark.parametrize(
    ("tuner", "rate", "state"),
    [
        ("lora", 5e-7, State.LOOK),
        ("lora", 1e-4, State.OK),
        ("full", 1e-4, State.LOOK),
        ("full", 5e-7, State.OK),
    ],
)
def test_a_rate_of_the_other_tuner_is_named(
    plan: JobPlan, tuner: str, rate: float, state: State
) -> None:
    found = note(replace(plan, tuner_type=tuner, learning_rate=rate), "learning rate")
    assert found.state is state
    assert ("--tuner_type" in found.advice) is (state is State.LOOK)


def test_nothing_is_said_about_a_rate_that_ms_swift_chooses_or_a_tiny_model(plan: JobPlan) -> None:
    for same in (replace(plan, learning_rate=None), replace(plan, model=str(TINY_MODEL))):
        assert not [n for n in preflight(same) if n.subject == "learning rate"]


def test_samples_that_make_no_whole_groups_are_an_error(plan: JobPlan) -> None:
    found = note(replace(plan, processes=1), "groups")
    assert found.state is State.BROKEN
    assert "1 processes x batch 1 x accumulation 5" in found.text
    assert "--gradient_accumulation_steps to 4" in found.advice


@pytest.mark.parametrize("processes", [1, 2, 3, 6, 7])
def test_the_advice_about_groups_helps(plan: JobPlan, processes: int) -> None:
    wrong = replace(plan, processes=processes, num_generations=8)
    found = note(wrong, "groups")
    assert found.state is State.BROKEN
    steps = int(found.advice.split("--gradient_accumulation_steps to ")[1].split(",")[0])
    assert note(replace(wrong, gradient_accumulation_steps=steps), "groups").state is State.OK


def test_a_group_of_one_needs_a_teacher(plan: JobPlan) -> None:
    assert note(replace(plan, num_generations=1), "groups").state is State.LOOK


@pytest.mark.parametrize(
    ("images", "limit", "state"),
    [(1, 6, State.OK), (2, 2, State.LOOK), (3, 2, State.BROKEN)],
)
def test_images_of_a_row_against_the_limit(
    plan: JobPlan, tmp_path: Path, images: int, limit: int, state: State
) -> None:
    rows = write_rows(tmp_path, (64, 64), images=images)
    found = note(replace(plan, dataset=(str(rows),), most_images=limit), "images")
    assert found.state is state
    assert ("--vllm_limit_mm_per_prompt" in found.advice) is (state is not State.OK)


def test_the_limit_of_a_server_is_the_servers(plan: JobPlan) -> None:
    server = replace(plan, vllm_mode="server", most_images=0)
    assert not [n for n in preflight(server) if n.subject == "images"]


def test_memory_of_full_training_is_16_bytes_a_parameter_and_a_reference() -> None:
    alone = replace(RECIPE, processes=1, deepspeed=None, beta=0)
    assert training_gib(alone, 2**30) == 16
    assert training_gib(replace(alone, beta=0.01), 2**30) == 18
    assert training_gib(RECIPE, 2**30) == 18 / 8
    assert training_gib(replace(alone, tuner_type="lora"), 2**30) < 2.5


def test_memory_that_a_card_lacks_comes_with_ways_out() -> None:
    fits = memory_notes(RECIPE, SEVEN_B, 80.0)
    assert [advice for _, advice in fits] == [""]
    ((text, advice),) = memory_notes(replace(RECIPE, deepspeed="zero2"), SEVEN_B, 80.0)
    assert "vLLM 44.0 of 80 GiB" in text
    assert "--deepspeed zero3" in advice
    *_, (text, advice) = memory_notes(replace(RECIPE, sleep_level=1), SEVEN_B, 24.0)
    assert "vLLM needs" in text and "--vllm_gpu_memory_utilization" in advice
    assert memory_notes(RECIPE, QWEN, 80.0) == [("not computed: the model is no folder here", "")]


def test_a_package_that_a_flag_needs_is_looked_for(
    plan: JobPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    found = {n.text: n.state for n in preflight(replace(plan, attn_impl="flash_attn"))}
    assert found["--deepspeed zero3: not installed"] is State.BROKEN
    assert found["--attn_impl flash_attn: the package flash-attn is not installed"] is State.LOOK


def test_rows_that_cannot_be_read_are_left_to_others(tmp_path: Path, plan: JobPlan) -> None:
    rows = tmp_path / "broken.jsonl"
    gone = {"messages": "x", "images": ["/nowhere/a.jpg", {"bytes": "zz"}, 3]}
    rows.write_text(f"no JSON\n[1]\n{json.dumps(gone)}\n")
    found = note(replace(plan, dataset=(str(rows), "AI-ModelScope/alpaca#10")), "pictures")
    assert found.state is State.OK and "not looked at" in found.text


def arguments(**flags: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"rlhf_type": "grpo", "num_generations": 4, **flags})


def test_the_plan_is_read_from_ms_swifts_arguments() -> None:
    plan = plan_of(
        arguments(
            dataset=["a.jsonl"],
            max_pixels=None,
            model_kwargs='{"max_pixels": 1000}',
            vllm_limit_mm_per_prompt='{"image": 3}',
            deepspeed={"zero_optimization": {"stage": 2}},
        ),
        5000,
        2,
    )
    assert plan.dataset == ("a.jsonl",)
    assert (plan.max_pixels, plan.most_images, plan.zero_stage) == (1000, 3, 2)
    assert plan.samples_per_rollout == 2
    assert plan_of(arguments(max_pixels=300), 5000, 1).max_pixels == 300


def test_a_job_that_certainly_fails_is_stopped_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = str(write_rows(tmp_path, (64, 64), images=3))
    limit = {"image": 2}
    job = arguments(dataset=[rows], use_vllm=True, vllm_limit_mm_per_prompt=limit)
    with pytest.raises(SettingsError) as caught:
        module.log_preflight(job)
    assert str(caught.value).startswith("images: rows have up to 3 images")
    assert "\n" not in str(caught.value)


def test_a_job_that_ms_swift_stops_itself_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    logger = SimpleNamespace(info=print, warning=said.append)
    monkeypatch.setitem(sys.modules, "swift.utils", SimpleNamespace(get_logger=lambda: logger))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    module.log_preflight(arguments(gradient_accumulation_steps=5))
    assert said[0].startswith("preflight: groups: 5 samples a rollout")
