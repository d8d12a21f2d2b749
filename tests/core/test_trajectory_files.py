"""Trajectories on disk: written, killed half-way, read again."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from swift_thyme.core.errors import DataError
from swift_thyme.core.segment import Segment, SegmentKind, split_sampled_text
from swift_thyme.core.trajectory_files import (
    ImageRef,
    TrajectoryRecord,
    TrajectoryWriter,
    read_trajectories,
    trajectory_files,
)


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def make_record(identifier: str = "a", images: tuple[ImageRef, ...] = ()) -> TrajectoryRecord:
    return TrajectoryRecord(
        id=identifier,
        question="Which colour?",
        segments=(
            Segment(SegmentKind.TEXT, "<think>Look. ", tokens=3),
            Segment(SegmentKind.CODE, "<code>print(1)</code>", tokens=7),
            Segment(
                SegmentKind.OBSERVATION,
                "<sandbox_output><image></sandbox_output>",
                images=images,
                tokens=20,
                status="ok",
                repairs=("dedent",),
                duration_s=0.25,
            ),
            Segment(SegmentKind.TEXT, "Red.</think><answer>red</answer>"),
        ),
        run="test",
        step=3,
        images=images,
        answer="red",
        reference=("red", "crimson"),
        end_reason="answer",
        tool_used=True,
        rewards={"vqa": 1.0, "judge": None},
        statuses=("ok",),
        repairs=("dedent",),
        timings={"total_s": 1.5},
        meta={"index": 7, "category": "colour"},
    )


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        record = make_record(images=(writer.add_image(png(), name="/data/a.png"),))
        writer.write(record, durable=True)
    assert list(read_trajectories(tmp_path / "trajectories.jsonl")) == [record]
    (image,) = record.images
    assert (image.width, image.height) == (40, 30)
    assert (tmp_path / image.file).read_bytes() == png()


def test_equal_images_are_stored_once(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        first, second = writer.add_image(png()), writer.add_image(png(), name="b")
        writer.add_image(png("blue"))
    assert first.file == second.file
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_line_that_was_cut_off_is_left_out_and_then_removed(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    with TrajectoryWriter(tmp_path) as writer:
        writer.write(make_record("a"), make_record("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [r.id for r in read_trajectories(path)] == ["a"]
    with TrajectoryWriter(tmp_path) as writer:
        writer.write(make_record("c"))
    assert [r.id for r in read_trajectories(path)] == ["a", "c"]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    with TrajectoryWriter(tmp_path) as writer:
        writer.write(make_record("a"))
    path.write_bytes(path.read_bytes() + b'{"format": 1}\n')
    with pytest.raises(DataError, match=r"trajectories\.jsonl, line 2"):
        list(read_trajectories(path))


@pytest.mark.parametrize("file", ["/etc/passwd", "images/../../secret.png", "images/a.png"])
def test_an_image_path_cannot_lead_out_of_the_folder(tmp_path: Path, file: str) -> None:
    record = make_record(images=(ImageRef(file, 1, 1),))
    with pytest.raises(DataError, match="image file"):
        TrajectoryRecord.from_json(json.loads(json.dumps(record.to_json())))


def test_a_field_of_a_later_version_is_ignored() -> None:
    value = {**make_record().to_json(), "colour_of_the_bike_shed": "green"}
    value = json.loads(json.dumps(value))
    assert TrajectoryRecord.from_json(value) == make_record()
    with pytest.raises(DataError, match="format 2"):
        TrajectoryRecord.from_json({**value, "format": 2})


def test_trajectory_files_are_found_at_any_depth(tmp_path: Path) -> None:
    for folder, name in (("a/b", "trajectories.jsonl"), ("c", "trajectories-1.jsonl")):
        TrajectoryWriter(tmp_path / folder, name).close()
    found = [str(path.relative_to(tmp_path)) for path in trajectory_files(tmp_path)]
    assert found == ["a/b/trajectories.jsonl", "c/trajectories-1.jsonl"]
    with pytest.raises(DataError, match="no trajectories"):
        trajectory_files(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("only prose", "t"),
        ("a<code>1</code>b<CODE>y</CODE>", "tctc"),
        ("a<code>1", "tc"),
        ("<code>s = '<code>'</code> then", "ct"),
        ("", ""),
        ("a<sandbox_output><code>no</code></sandbox_output>b<code>1</code>", "tc"),
    ],
)
def test_sampled_text_is_split_without_losing_a_character(text: str, kinds: str) -> None:
    pieces = split_sampled_text(text)
    assert "".join(piece for _, piece in pieces) == text
    assert "".join(kind.value[0] for kind, _ in pieces) == kinds
    assert all(piece.lower().startswith("<code>") for kind, piece in pieces if kind.value == "code")
    assert not any("1" in piece for kind, piece in pieces if kind.value == "text")


def test_the_completion_is_the_joined_segments() -> None:
    record = make_record()
    assert record.completion == "".join(segment.text for segment in record.segments)
    assert dataclasses.replace(record, segments=()).completion == ""
