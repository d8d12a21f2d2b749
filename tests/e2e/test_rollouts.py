"""Token-exactness of real rollouts: real ms-swift jobs with real engines and real sandboxes.

``capture_plugin.py`` writes down what the engine sampled and what the trainer computed from it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.placeholders import IMAGE_TOKENS
from swift_thyme.core.segment import SegmentKind
from swift_thyme.core.trajectory_files import read_trajectories
from swift_thyme.view.page import build_page
from swift_thyme.view.sources import load
from tests.view.chromium import Page

from .jobs import VLLM_FLAGS, as_argv, grpo_flags, swift, training_log

CAPTURE = "tests/e2e/capture_plugin.py"


def run_and_capture(folder: Path, data: Path, *extra: str) -> tuple[list[dict[str, Any]], Path]:
    output, capture = folder / "run", folder / "capture"
    flags = grpo_flags(data, output, plugins=(CAPTURE,))
    job = swift("rlhf", *as_argv(flags), *extra, THYME_CAPTURE=str(capture))
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    lines = Path(f"{capture}.0").read_text().splitlines()
    return [json.loads(line) for line in lines], output


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def rollout(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_data: Path
) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp(f"rollout_{request.param}")
    return run_and_capture(folder, tiny_data, *(VLLM_FLAGS if request.param == "vllm" else ()))


def flat(nested: list[list[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]


def mean_difference(record: dict[str, Any], key: str) -> float:
    engine = flat([turn["logprobs"] for turn in record["turns"]])
    trainer = record[key]
    assert len(engine) == len(trainer)
    return sum(abs(a - b) for a, b in zip(engine, trainer, strict=True)) / len(engine)


@pytest.mark.slow
def test_the_rollout_returns_images(rollout: tuple[list[dict[str, Any]], Path]) -> None:
    records, output = rollout
    assert len(records) == 8
    assert sum(record["infos"]["thyme_images"] for record in records) >= 4
    (step,) = training_log(output)
    assert step["thyme/tool_use_rate"] > 0
    assert step["thyme/images_total"] == sum(r["infos"]["thyme_images"] for r in records)
    assert step["thyme/turns"] == pytest.approx(
        sum(len(record["turns"]) for record in records) / len(records)
    )


@pytest.mark.slow
def test_the_ids_that_are_trained_on_are_the_ids_that_the_engine_sampled(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    for record in rollout[0]:
        ids, mask = flat(record["response_token_ids"]), flat(record["response_loss_mask"])
        trained = [i for i, m in zip(ids, mask, strict=True) if m]
        assert trained == flat([turn["token_ids"] for turn in record["turns"]])


@pytest.mark.slow
def test_there_is_one_placeholder_per_image_and_the_template_expands_it(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    for record in rollout[0]:
        image_id, infos = record["image_id"], record["infos"]
        assert flat(record["response_token_ids"]).count(image_id) == infos["thyme_images"]
        assert record["n_images"] == 1 + infos["thyme_images"]
        # 16 visual tokens for a picture at the tiny model's pixel budget.
        assert record["input_ids"].count(image_id) == 16 * record["n_images"]


@pytest.mark.slow
def test_engine_and_trainer_agree_on_the_log_probabilities(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    differences = [mean_difference(record, "trainer_logps") for record in rollout[0]]
    assert max(differences) < 1e-2, differences


@pytest.mark.slow
def test_leaving_a_returned_image_out_would_be_noticed(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    with_images = [record for record in rollout[0] if record["infos"]["thyme_images"]]
    differences = [
        mean_difference(record, "trainer_logps_without_images") for record in with_images
    ]
    assert differences
    assert sum(d > 1e-2 for d in differences) / len(differences) > 0.5, differences


@pytest.mark.slow
def test_what_the_sandbox_said_is_in_the_completion_and_not_trained_on(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    for record in rollout[0]:
        n_outputs = record["completion"].count("<sandbox_output>")
        runs_of_zeros = 0
        for mask in record["response_loss_mask"]:
            runs_of_zeros += sum(
                1 for i, m in enumerate(mask) if m == 0 and (i == 0 or mask[i - 1] == 1)
            )
        assert runs_of_zeros == n_outputs == max(0, record["infos"]["thyme_turns"] - 1)


@pytest.mark.slow
def test_kept_trajectories_are_what_was_trained_on(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    records, output = rollout
    (file,) = output.glob("**/trajectories/rank0/trajectories.jsonl")
    kept = list(read_trajectories(file))
    assert len(kept) == 4
    for trajectory in kept:
        assert (trajectory.run, trajectory.step) == ("train", 1)
        assert set(trajectory.rewards) == {"FmtORM", "VqaORM", "CstORM"}
        assert trajectory.meta["reward"] == pytest.approx(sum(trajectory.rewards.values()))
        same = [
            record
            for record in records
            if record["completion"].replace(IMAGE_TOKENS, "<image>") == trajectory.completion
        ]
        assert same
        assert trajectory.statuses == tuple(same[0]["infos"]["thyme_statuses"])
        sampled = [s for s in trajectory.segments if s.kind is not SegmentKind.OBSERVATION]
        observed = [s for s in trajectory.segments if s.kind is SegmentKind.OBSERVATION]
        n_sampled = sum(segment.tokens for segment in sampled)
        assert n_sampled == trajectory.sampled_tokens == sum(flat(same[0]["response_loss_mask"]))
        n_observed = sum(segment.tokens for segment in observed)
        lengths = {len(record["input_ids"]) for record in same}
        assert trajectory.prompt_tokens + n_sampled + n_observed in lengths
        images = trajectory.all_images
        assert len(images) == same[0]["n_images"]
        assert {(image.width, image.height) for image in images[1:]} <= {(112, 112)}
        assert all((file.parent / image.file).is_file() for image in images)


@pytest.mark.slow
def test_tensorboard_shows_some_of_the_kept_trajectories(
    rollout: tuple[list[dict[str, Any]], Path],
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, output = rollout
    (folder,) = output.glob("**/runs")
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["trajectories_train/1", "trajectories_train/2"]
    (shown,) = events.Images("trajectories_train/1")
    assert (shown.step, shown.height > 240) == (1, True)


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_the_page_of_a_run_in_a_real_browser(
    rollout: tuple[list[dict[str, Any]], Path], tmp_path: Path
) -> None:
    _, output = rollout
    report = build_page(load([output]), tmp_path / "page.html", title="A run")
    assert report.shown == 4
    assert report.missing_images == 0
    with Page() as page:
        page.open((tmp_path / "page.html").as_uri())
        page.evaluate(
            "(() => { const c = document.getElementById('tool'); c.value = 'images';"
            "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        page.wait("document.querySelector('#tool').value === 'images'")
        page.press("j")
        sizes = page.evaluate(
            "Promise.all([...document.querySelectorAll('#detail img')].map(i => i.decode()))"
            ".then(() => [...document.querySelectorAll('#detail img')].map(i => i.naturalWidth))"
        )
        assert sizes[:2] == [448, 112]
        text = page.evaluate("document.getElementById('detail').innerText")
        for fact in ("What number is on the yellow plate?", "VqaORM", "step 1", "image.crop"):
            assert fact in text
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("data:")] == [
            (tmp_path / "page.html").as_uri()
        ]
