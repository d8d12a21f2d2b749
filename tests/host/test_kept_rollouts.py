"""Trajectories kept during training: what is drawn, what a record says, how much disk it takes."""

import base64
import io
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.images import read
from swift_thyme.core.protocol import IMAGE_TAG, build_user_prompt
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.segment import SegmentKind
from swift_thyme.core.summary import EndReason, TrajectorySummary
from swift_thyme.core.trajectory_files import TrajectoryRecord, read_trajectories
from swift_thyme.host.kept_rollouts import Keeper, KeepSettings
from swift_thyme.host.response_prefix import ResponsePrefix
from swift_thyme.host.rollout_records import record_of

IMAGE_ID = 1
CODE = "<code>\nprint(1)\n</code>"


def encode(text: str) -> list[int]:
    """One id per character; an image is one id."""
    pieces = text.split("<image>")
    ids = [ord(c) for c in pieces[0]]
    for piece in pieces[1:]:
        ids += [IMAGE_ID, *map(ord, piece)]
    return ids


def decode(token_ids: Sequence[int]) -> str:
    return "".join(IMAGE_TAG if i == IMAGE_ID else chr(i) for i in token_ids)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = random.Random(seed).randbytes(40 * 40 * 3)
    Image.frombytes("RGB", (40, 40), noise).save(buffer, format="PNG")
    return buffer.getvalue()


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def make_sample(number: int = 0, *turns: tuple[str, str], images: Any = None) -> SimpleNamespace:
    """Return a sample after its rollout; ``turns`` are (sampled, observed) texts."""
    turns = turns or (
        (f"<think>Look. {CODE}", "<sandbox_output>1\n<image></sandbox_output>"),
        ("Red.</think>\n<answer>red</answer>", ""),
    )
    # ms-swift joins the turns of one assistant message.
    ids: list[int] = []
    mask: list[int] = []
    offsets = []
    for sampled, observed in turns:
        offsets.append(len(ids) + len(encode(sampled)))
        ids += encode(sampled) + encode(observed)
        mask += [1] * len(encode(sampled)) + [0] * len(encode(observed))
    summary = TrajectorySummary(turns=len(turns), sampled_tokens=70, end_reason=EndReason.ANSWER)
    summary.blocks = [
        BlockRecord(
            "ok",
            turn=turn,
            images=(ReturnedImage(b"", 40, 40, "a.png"),) * observed.count("<image>"),
            repairs=("dedent",),
            duration_s=0.25,
            offset=offsets[turn - 1],
            n_ids=len(encode(observed)),
            tokens=99,
        )
        for turn, (_, observed) in enumerate(turns, 1)
        if observed
    ]
    summary.blocks_written = len(summary.blocks)
    prompt = build_user_prompt("Which colour?", "/data/a.jpg", (40, 40))
    if images is None:
        images = [base64.b64encode(png(number)).decode(), uri(png(1000 + number))]
    return SimpleNamespace(
        request_id=f"chatcmpl-{number:08d}",
        prompt_id="p1",
        messages=[
            {"role": "system", "content": "You may write Python."},
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": ids},
        ],
        images=images,
        response_token_ids=[ids],
        response_loss_mask=[mask],
        rollout_infos=write_infos(summary),
        extra={"solution": "red", "question": None},
        encoded={"length": 1000},
    )


def make_keeper(folder: Path, per_step: int = 4, **options: Any) -> Keeper:
    return Keeper(KeepSettings(per_step=per_step), folder, **options)


def consider(keeper: Keeper, samples: Sequence[Any], mode: str = "train") -> None:
    n = len(samples)
    keeper.consider(samples, mode, decode, [{"fmt": 0.5, "vqa": None}] * n, [0.5] * n, [0.1] * n)


def kept(folder: Path, rank: int = 0) -> list[TrajectoryRecord]:
    file = folder / "trajectories" / f"rank{rank}" / "trajectories.jsonl"
    return list(read_trajectories(file)) if file.exists() else []


def test_a_record_is_split_by_who_wrote_what() -> None:
    record, images, prompt_images = record_of(make_sample(), decode)
    kinds = [segment.kind for segment in record.segments]
    assert kinds == [
        SegmentKind.TEXT,
        SegmentKind.CODE,
        SegmentKind.OBSERVATION,
        SegmentKind.TEXT,
    ]
    think, code, observation, rest = record.segments
    assert (think.text, code.text) == ("<think>Look. ", CODE)
    assert (think.tokens, code.tokens) == (len("<think>Look. "), len(CODE))
    assert observation.text == "<sandbox_output>1\n<image></sandbox_output>"
    assert (observation.status, observation.repairs) == ("ok", ("dedent",))
    assert (observation.tokens, observation.duration_s) == (99, 0.25)
    assert rest.text == "Red.</think>\n<answer>red</answer>"
    assert (record.question, record.answer, record.reference) == ("Which colour?", "red", ("red",))
    assert record.system == "You may write Python."
    assert (len(images), prompt_images) == (2, 1)
    sampled = sum(segment.tokens or 0 for segment in (think, code, rest))
    assert record.prompt_tokens == 1000 - 99 - sampled


def test_code_that_is_not_trained_on_stays_code_and_a_response_prefix_text() -> None:
    sample = make_sample()
    code = len(encode(CODE))
    sampled = len(encode(f"<think>Look. {CODE}"))
    first = sample.response_loss_mask[0]
    first[sampled - code : sampled] = [0] * code
    sample.response_token_ids[0][:0] = encode("<pre>")
    first[:0] = [0] * len("<pre>")
    prefix = ResponsePrefix("<pre>", tuple(encode("<pre>")))
    segments = record_of(sample, decode, prefix).record.segments
    assert [segment.text for segment in segments] == [
        "<pre><think>Look. ",
        CODE,
        "<sandbox_output>1\n<image></sandbox_output>",
        "Red.</think>\n<answer>red</answer>",
    ]
    assert [segment.kind.value for segment in segments] == ["text", "code", "observation", "text"]
    assert segments[0].tokens == len("<think>Look. ")


def test_a_rollout_of_another_scheduler_is_split_by_its_loss_mask() -> None:
    sample = make_sample()
    sample.rollout_infos = {}
    record = record_of(sample, decode).record
    assert [segment.kind.value for segment in record.segments] == [
        "text",
        "code",
        "observation",
        "text",
    ]
    assert record.end_reason is None
    assert record.sampled_tokens is None


def test_text_that_only_looks_like_an_observation_stays_the_models() -> None:
    fake = "<think><sandbox_output><image>5</sandbox_output></think><answer>5</answer>"
    record, _, prompt_images = record_of(make_sample(0, (fake, "")), decode)
    assert {segment.kind for segment in record.segments} == {SegmentKind.TEXT}
    assert prompt_images == 2


def test_a_turn_that_went_on_after_a_stop_string_is_one_piece() -> None:
    sample = make_sample(0, ("<think>the tag </code> ", ""), ("is a tag</think>", ""), images=[])
    (segment,) = record_of(sample, decode).record.segments
    assert segment.text == "<think>the tag </code> is a tag</think>"


def test_a_sample_without_ids_is_read_from_its_text() -> None:
    sample = make_sample(images=[])
    sample.response_token_ids = sample.response_loss_mask = []
    sample.messages[-1]["content"] = f"<think>{CODE}"
    record = record_of(sample, decode).record
    assert [segment.kind.value for segment in record.segments] == ["text", "code"]
    assert record.prompt_tokens is None


def test_kept_trajectories_come_with_rewards_step_and_pictures(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path, per_step=1)
    consider(keeper, [make_sample(3)])
    keeper.flush(12)
    (record,) = kept(tmp_path)
    assert (record.id, record.run, record.step) == ("train-12-00000003", "train", 12)
    assert record.rewards == {"fmt": 0.5, "vqa": None}
    assert record.meta == {"prompt_id": "p1", "reward": 0.5, "advantage": 0.1, "rank": 0}
    folder = tmp_path / "trajectories" / "rank0"
    assert record.images[0].name == "/data/a.jpg"
    assert (folder / record.images[0].file).read_bytes() == png(3)
    (returned,) = record.segments[2].images
    assert (folder / returned.file).read_bytes() == png(1003)


def test_nothing_is_written_before_a_log_or_without_samples(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path)
    keeper.flush(1)
    consider(keeper, [make_sample()])
    assert not (tmp_path / "trajectories").exists()
    keeper.flush(2)
    keeper.flush(3)
    assert [record.step for record in kept(tmp_path)] == [2]


def test_a_logging_interval_of_many_rollouts_gives_as_many_as_asked_for(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path, per_step=3)
    for start in range(0, 400, 8):
        consider(keeper, [make_sample(start + i) for i in range(8)])
    consider(keeper, [make_sample(500 + i) for i in range(8)], "eval")
    keeper.flush(10)
    records = kept(tmp_path)
    assert [record.run for record in records].count("train") == 3
    assert [record.run for record in records].count("eval") == 3


def test_every_sample_has_the_same_chance() -> None:
    counts = [0] * 10
    samples = [make_sample(i, images=[]) for i in range(10)]
    for seed in range(400):
        keeper = make_keeper(Path("/nowhere"), per_step=2, seed=seed)
        for sample in samples:
            consider(keeper, [sample])
        for _, item in keeper._pending["train"]:
            counts[int(item.record.id[-8:])] += 1
    assert sum(counts) == 800
    assert min(counts) > 45
    assert max(counts) < 120


def ask(number: int, question: str) -> SimpleNamespace:
    sample = make_sample(number, images=[])
    sample.messages[1] = {"role": "user", "content": build_user_prompt(question, "/a.jpg", (9, 9))}
    sample.extra["question"] = question
    return sample


def questions(folder: Path, run: str, step: int) -> list[str]:
    records = [record for record in kept(folder) if (record.run, record.step) == (run, step)]
    return sorted(record.question for record in records)


def test_the_samples_of_a_question_are_kept_together(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path, per_step=4)
    for step in range(1, 31):
        # ms-swift scores a group in several calls where batches are small.
        for part in range(2):
            consider(
                keeper, [ask(10 * q + 4 * part + i, f"Q{q}?") for q in range(5) for i in (0, 1)]
            )
        keeper.flush(step)
    drawn = [questions(tmp_path, "train", step) for step in range(1, 31)]
    assert all(len(asked) == 4 and len(set(asked)) == 1 for asked in drawn)
    assert len({asked[0] for asked in drawn}) == 5


def test_evaluations_keep_the_same_questions_each_time(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path, per_step=3)
    for step in (0, 10, 20):
        consider(keeper, [ask(step + q, f"Q{q}?") for q in range(20)], "eval")
        keeper.flush(step)
    assert len(set(questions(tmp_path, "eval", 0))) == 3
    assert questions(tmp_path, "eval", 0) == questions(tmp_path, "eval", 20)
    again = make_keeper(tmp_path / "again", per_step=3)
    consider(again, [ask(q, f"Q{q}?") for q in range(20)], "eval")
    again.flush(0)
    assert questions(tmp_path / "again", "eval", 0) == questions(tmp_path, "eval", 0)


def test_processes_draw_the_same_questions(tmp_path: Path) -> None:
    for rank in range(2):
        keeper = make_keeper(tmp_path, 4, rank=rank, world_size=2)
        consider(keeper, [ask(100 * rank + q, f"Q{q}?") for q in range(10)])
        keeper.flush(1)
    asked = [{record.question for record in kept(tmp_path, rank)} for rank in range(2)]
    assert asked[0] == asked[1]


def test_questions_of_the_same_words_are_told_apart_by_their_pictures(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path, per_step=3)
    samples = [make_sample(q) for q in range(12)]
    for step in (0, 1):
        consider(keeper, samples, "eval")
        keeper.flush(step)
    records = kept(tmp_path)
    pictures = [{r.images[0].file for r in records if r.step == step} for step in (0, 1)]
    assert len(pictures[0]) == 3
    assert pictures[0] == pictures[1]


def test_drawing_leaves_the_random_state_of_the_job_alone(tmp_path: Path) -> None:
    random.seed(1)
    before = random.getstate()
    keeper = make_keeper(tmp_path)
    consider(keeper, [make_sample(i) for i in range(20)])
    keeper.flush(1)
    assert random.getstate() == before


@pytest.mark.parametrize(("per_step", "world"), [(4, 1), (4, 2), (4, 3), (4, 8), (1, 8), (0, 2)])
def test_the_processes_share_the_number(tmp_path: Path, per_step: int, world: int) -> None:
    for rank in range(world):
        keeper = make_keeper(tmp_path, per_step, rank=rank, world_size=world)
        consider(keeper, [make_sample(100 * rank + i) for i in range(8)])
        keeper.flush(1)
    files = list(tmp_path.rglob("trajectories.jsonl"))
    assert sum(len(list(read_trajectories(file))) for file in files) == per_step
    assert len({file.parent for file in files}) == len(files)


def test_disk_is_bounded_by_dropping_every_second_step(tmp_path: Path) -> None:
    settings = KeepSettings(per_step=2, disk_mb=1)
    keeper = Keeper(settings, tmp_path)
    folder = tmp_path / "trajectories" / "rank0"
    sizes = []
    for step in range(1, 301):
        # One prompt picture for all, a picture of its own for each.
        shared = base64.b64encode(png(7)).decode()
        samples = [
            make_sample(2 * step + i, images=[shared, uri(png(5000 + 2 * step + i))])
            for i in range(2)
        ]
        consider(keeper, samples)
        keeper.flush(step)
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    assert max(sizes) <= 1 << 20
    assert max(sizes) > 800_000
    records = kept(tmp_path)
    steps = sorted({record.step for record in records if record.step is not None})
    assert steps[0] == 1
    assert steps[-1] == 300
    assert len(steps) > 20
    named = {ref.file for record in records for ref in record.all_images}
    there = {f"images/{path.name}" for path in (folder / "images").iterdir()}
    assert named == there


def test_a_job_that_was_killed_while_writing_goes_on(tmp_path: Path) -> None:
    keeper = make_keeper(tmp_path)
    consider(keeper, [make_sample(1)])
    keeper.flush(1)
    file = tmp_path / "trajectories" / "rank0" / "trajectories.jsonl"
    with open(file, "a") as lines:
        lines.write('{"format": 1, "id": "half')
    again = make_keeper(tmp_path)
    consider(again, [make_sample(2)])
    again.flush(2)
    assert [record.step for record in kept(tmp_path)] == [1, 2]


def test_a_folder_that_cannot_be_written_ends_keeping_and_not_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trajectories").write_text("in the way")
    keeper = make_keeper(tmp_path)
    with caplog.at_level(logging.ERROR):
        for step in (1, 2):
            consider(keeper, [make_sample(step)])
            keeper.flush(step)
    assert sum("no more trajectories are kept" in r.message for r in caplog.records) == 1
    assert not keeper.active


def test_a_picture_is_accepted_in_each_form_that_ms_swift_uses(tmp_path: Path) -> None:
    data = png(1)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    by_path = {"bytes": None, "path": str(path)}
    for form in (str(path), text, uri(data), data, {"bytes": data}, by_path):
        assert read(form) == data
    for bad in ("/no/such/file.png", 5, {"path": "/no/such.png"}):
        with pytest.raises(DataError):
            read(bad)


@pytest.mark.parametrize(
    ("name", "value"),
    [("THYME_KEEP_TRAJECTORIES", "-1"), ("THYME_KEEP_TRAJECTORIES", "few"), ("THYME_KEEP_MB", "0")],
)
def test_an_unusable_setting_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        KeepSettings.from_env({name: value})
    assert KeepSettings.from_env({"THYME_KEEP_TRAJECTORIES": "0"}).per_step == 0
    assert KeepSettings.from_env({}).per_step == 4
