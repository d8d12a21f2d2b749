"""Rows for reinforcement learning from JSONL, parquet and VLMEvalKit's TSV."""

import base64
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.protocol import build_user_prompt, parse_user_prompt
from swift_thyme.data import JobOptions, run_job
from tests.conftest import ROOT, python_program, run_program
from tests.data.builders import make_picture, read_jsonl, rejections, run, write_jsonl
from tests.pictures import camera_file, is_upright


def picture_text(size: tuple[int, int] = (300, 200)) -> str:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_row_has_the_published_format(tmp_path: Path) -> None:
    picture = make_picture(tmp_path)
    rows = [{"image": [str(picture)], "question": "<image>What colour?", "solution": "blue"}]
    out = tmp_path / "out"
    options = JobOptions(
        kind="rl",
        inputs=(str(write_jsonl(tmp_path / "train.jsonl", rows)),),
        out=str(out),
        system_prompt="You may write Python.",
        workers=1,
    )
    run_job(options)
    (row,) = read_jsonl(out / "train.rl.jsonl")
    (local,) = row["images"]
    assert row == {
        "messages": [
            {"role": "system", "content": "You may write Python."},
            {"role": "user", "content": build_user_prompt("What colour?", local, (200, 100))},
        ],
        "images": [local],
        "solution": "blue",
        "question": "What colour?",
    }
    found = parse_user_prompt(row["messages"][1]["content"])
    assert found is not None
    assert found.path == local
    with Image.open(local) as image:
        assert image.size == (200, 100)


def test_a_tsv_of_vlmevalkit_is_read_with_options_hints_and_shared_images(tmp_path: Path) -> None:
    image, large = picture_text(), picture_text((900, 700))
    assert len(large) > 200_000
    rows = [
        {"index": 7, "image": image, "question": "Which?", "A": "cat", "B": "dog", "answer": "A"},
        {"index": 8, "image": "7", "question": "And this?", "A": 1, "B": 2, "C": "nan"},
        {"index": 9, "image": large, "question": "Two\nlines?", "answer": 12, "hint": "Count."},
        {"index": 10, "image": "99", "question": "Whose?", "answer": "x"},
        {"index": 11, "question": "No picture?", "answer": "x"},
        {"index": 12, "image": image, "question": "No answer?"},
        {"index": 13, "image": "broken!" * 900, "question": "Broken?", "answer": "x"},
    ]
    rows[1]["answer"] = "A"
    out = tmp_path / "out"
    report = run("rl", write_tsv(tmp_path / "vstar.tsv", rows), out, shuffle=False)
    kept = read_jsonl(out / "vstar.rl.jsonl")
    assert [row["question"] for row in kept] == [
        "Which?\nA. cat\nB. dog",
        "And this?\nA. 1\nB. 2",
        "Count.\nTwo\nlines?",
    ]
    assert [row["solution"] for row in kept] == ["A", "A", "12"]
    assert kept[0]["images"] == kept[1]["images"] != kept[2]["images"]
    assert [m["role"] for m in kept[0]["messages"]] == ["user"]
    assert report.distinct_images == 2
    assert rejections(out) == {
        4: "image_base64",
        5: "no_image",
        6: "missing_column",
        7: "image_base64",
    }


def test_several_images_give_several_tags_paths_and_sizes(tmp_path: Path) -> None:
    make_picture(tmp_path)
    Image.new("RGB", (50, 60)).save(tmp_path / "b.png")
    rows = [{"images": ["b.png", "a.jpg"], "question": "Same?", "answer": "no"}]
    run("rl", write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out")
    (row,) = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    prompt = row["messages"][0]["content"]
    assert prompt.count("<image>") == len(row["images"]) == 2
    assert f'User Image Path: "{row["images"][0]}"' in prompt
    assert 'User Image Size: "50x60"' in prompt
    assert 'User Image Size 2: "200x100"' in prompt
    found = parse_user_prompt(prompt)
    assert found is not None and list(found.paths) == row["images"]
    sizes = [((50, 60)), (200, 100)]
    files = list(zip(row["images"], sizes, strict=True))
    assert prompt == build_user_prompt("Same?", *files[0], files[1:])


def test_a_phone_picture_and_a_deep_grey_one_are_stored_as_they_are_meant(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "phone.jpg").write_bytes(camera_file("JPEG", 6))
    grey = np.linspace(0, 255, 64 * 48).astype(np.uint16).reshape(48, 64)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    rows = [{"images": ["phone.jpg", "grey.png"], "question": "Same?", "answer": "no"}]
    run("rl", write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out")
    (row,) = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    prompt = row["messages"][0]["content"]
    assert 'User Image Size: "80x48"' in prompt
    assert 'User Image Size 2: "64x48"' in prompt
    with Image.open(row["images"][0]) as phone, Image.open(row["images"][1]) as stored:
        assert is_upright(phone)
        assert stored.convert("L").getextrema() == pytest.approx((0, 255), abs=3)


def test_parquet_with_bytes_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    image = {"bytes": make_picture(tmp_path).read_bytes(), "path": None}
    rows = [{"image": image, "question": "q?", "answer": 3.5, "other": 1}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    run("rl", tmp_path / "t.parquet", tmp_path / "out")
    (row,) = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    assert row["solution"] == "3.5"


@pytest.mark.parametrize("system", [None, "scripts/prompt.txt"])
def test_the_command_takes_the_system_prompt_from_a_file(
    tmp_path: Path, system: str | None
) -> None:
    make_picture(tmp_path)
    source = write_jsonl(
        tmp_path / "t.jsonl", [{"image": "a.jpg", "question": "q?", "answer": "a"}]
    )
    argv = ["data", "rl", str(source), "--out", str(tmp_path / "out")]
    argv += ["--system", system] if system else []
    job = run_program(python_program("-m", "swift_thyme.commands.main", *argv))
    assert job.returncode == 0, job.stderr
    (row,) = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    roles = {message["role"]: message["content"] for message in row["messages"]}
    assert ("system" in roles) is (system is not None)
    if system:
        assert roles["system"] == (ROOT / system).read_text().strip()
