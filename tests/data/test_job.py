"""Whole jobs with real worker processes: outputs, resumption, crashes, misuse."""

import json
import os
from pathlib import Path

import pytest
from faulty_data import FAULTS

from swift_thyme.core.errors import DataError, SettingsError, ThymeError
from swift_thyme.core.protocol import parse_user_prompt
from swift_thyme.data import JobOptions, run_job
from tests.conftest import python_program, run_program
from tests.data.builders import (
    QUESTION,
    make_picture,
    read_jsonl,
    rejections,
    run,
    sft_row,
    write_jsonl,
)
from tests.pictures import camera_file

ONE = ("print(1)", "1")


@pytest.mark.slow
def test_planted_faults_are_found_and_kills_change_nothing(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    program = python_program("scripts/check_data.py", "--rows", "520", "--broken-share", "0.2")
    job = run_program([*program, "--kills", "2", "--rows-per-shard", "16", "--json", str(result)])
    assert job.returncode == 0, job.stdout + job.stderr
    found = json.loads(result.read_text())
    assert found["wrong"] == []
    assert found["kinds"] >= 15
    assert found["resumed_identical"] and found["second_run_identical"]
    assert (found["kills"], found["shards_redone"]) == (2, 0)


def test_there_are_at_least_fifteen_kinds_of_faults() -> None:
    assert len(FAULTS) >= 15
    assert len({reason for reason, _, _ in FAULTS.values()}) >= 15


def test_rows_with_and_without_images_go_to_separate_files(tmp_path: Path) -> None:
    make_picture(tmp_path)
    text = {"question": "How much?", "response": "<think>a</think><answer>2</answer>"}
    rows = [sft_row(ONE), text, sft_row(("show()", "<image>")), {**text, "image": []}]
    report = run("sft", write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "out")
    with_images = read_jsonl(tmp_path / "out" / "c.images.jsonl")
    without = read_jsonl(tmp_path / "out" / "c.text.jsonl")
    assert [len(row["images"]) for row in with_images] == [1, 2]
    assert [set(row) for row in without] == [{"messages"}] * 2
    assert report.kept == 4
    assert report.distinct_images == 1
    local = with_images[0]["images"][0]
    assert local.startswith(str(tmp_path / "out" / "images"))
    question = with_images[0]["messages"][0]["content"]
    assert f'User Image Path: "{local}"' in question
    assert 'User Image Size: "200x100"' in question
    stored = [path for path in (tmp_path / "out" / "images").rglob("*") if path.is_file()]
    assert [str(path) for path in stored] == [local]


def test_a_second_run_changes_no_file(tmp_path: Path) -> None:
    make_picture(tmp_path)
    source = write_jsonl(tmp_path / "c.jsonl", [sft_row(ONE), {"question": "q"}])
    first = run("sft", source, tmp_path / "out")

    def stamps() -> dict[str, int]:
        files = (p for p in (tmp_path / "out").rglob("*") if p.is_file())
        return {str(p): p.stat().st_mtime_ns for p in files if ".work" not in p.parts}

    before = stamps()
    assert run("sft", source, tmp_path / "out") == first
    assert stamps() == before


def test_the_number_of_workers_does_not_change_the_result(tmp_path: Path) -> None:
    make_picture(tmp_path)
    rows = [sft_row(ONE) if i % 5 else {"question": f"q {i}"} for i in range(60)]
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    texts = []
    for workers in (1, 3):
        run("sft", source, tmp_path / "out", workers=workers)
        texts.append([p.read_bytes() for p in sorted((tmp_path / "out").glob("[!.]*.*"))])
        (tmp_path / "out").rename(tmp_path / f"out{workers}")
    assert texts[0] == texts[1]


def test_a_rejected_row_leaves_no_picture_behind(tmp_path: Path) -> None:
    make_picture(tmp_path)
    broken = sft_row(("show()", "<image>"))
    broken["image"][1] = "gone.jpg"
    run("sft", write_jsonl(tmp_path / "c.jsonl", [broken]), tmp_path / "out")
    assert rejections(tmp_path / "out") == {1: "image_file"}
    assert not [p for p in (tmp_path / "out" / "images").rglob("*") if p.is_file()]


def test_another_jobs_folder_is_not_touched(tmp_path: Path) -> None:
    make_picture(tmp_path)
    source = write_jsonl(tmp_path / "c.jsonl", [sft_row(ONE)])
    run("sft", source, tmp_path / "out")
    write_jsonl(source, [sft_row(ONE)] * 2)
    with pytest.raises(DataError, match="--overwrite"):
        run("sft", source, tmp_path / "out")
    options = JobOptions(kind="sft", inputs=(str(source),), out=str(tmp_path / "out"), workers=1)
    assert run_job(options, overwrite=True).kept == 2


def test_two_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    import fcntl

    source = write_jsonl(tmp_path / "c.jsonl", [sft_row(ONE)])
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with (tmp_path / "out" / ".work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another job"):
            run("sft", source, tmp_path / "out")


def test_a_worker_that_is_killed_ends_the_job_and_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_crashing_job(tmp_path, monkeypatch, "SIGKILL")
    with pytest.raises(ThymeError, match=r"SIGKILL\) at .*c\.jsonl row 2"):
        run_job(options)


def test_a_row_that_crashes_the_decoder_twice_is_rejected_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run_job(make_crashing_job(tmp_path, monkeypatch, "SIGSEGV"))
    assert rejections(tmp_path / "out") == {2: "image_crash"}
    assert report.kept == 3


def make_crashing_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> JobOptions:
    """Return a job of four rows whose second picture ends the process that decodes it.

    The signal is sent by a decoder that a `sitecustomize` module wraps in the worker processes.
    """
    make_picture(tmp_path)
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + b"crash")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from PIL import Image\n"
        "decode = Image.open\n"
        "def crash(file, *args, **kwargs):\n"
        "    if hasattr(file, 'getvalue') and file.getvalue().endswith(b'crash'):\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "    return decode(file, *args, **kwargs)\n"
        "Image.open = crash\n"
    )
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    rows = [sft_row(ONE) for _ in range(4)]
    rows[1]["image"] = ["bad.jpg"]
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    return JobOptions(kind="sft", inputs=(str(source),), out=str(tmp_path / "out"), workers=1)


def test_an_output_folder_that_prompts_cannot_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--out"):
        JobOptions(kind="sft", inputs=("a",), out=str(tmp_path / 'a "b"'))


def test_the_command_prints_the_report_and_one_line_for_an_error(tmp_path: Path) -> None:
    make_picture(tmp_path)
    source = write_jsonl(tmp_path / "c.jsonl", [sft_row(ONE), {"question": "q"}])
    command = python_program("-m", "swift_thyme.commands.main", "data", "sft")
    good = run_program([*command, str(source), "--out", str(tmp_path / "out")])
    assert good.returncode == 0, good.stderr
    assert "2 rows: 1 kept (50.0 %), 1 rejected" in good.stdout
    assert "missing_column" in good.stdout
    assert "missing_column" in (tmp_path / "out" / "report.txt").read_text()
    bad = run_program([*command, str(tmp_path / "gone"), "--out", str(tmp_path / "out2")])
    assert bad.returncode == 1
    assert "gone: no such file or folder" in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("sft", [{"question": "q"}] * 3, "none of 3 rows can be used: 3 times missing_column"),
        ("rl", [{"question": "q"}], "none of 1 rows can be used: 1 times missing_column"),
        ("sft", [], "no row was found"),
    ],
)
def test_a_job_that_keeps_no_row_fails(
    tmp_path: Path, kind: str, rows: list[dict[str, str]], words: str
) -> None:
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    command = python_program("-m", "swift_thyme.commands.main", "data", kind, str(source))
    job = run_program([*command, "--out", str(tmp_path / "out"), "--workers", "1"])
    assert job.returncode == 1
    assert words in job.stderr.splitlines()[-1]
    assert "Traceback" not in job.stderr


def test_a_supervised_row_with_two_images_quotes_both_and_its_code_opens_both(
    tmp_path: Path,
) -> None:
    make_picture(tmp_path, "a.jpg")
    (tmp_path / "b.png").write_bytes(camera_file("PNG", 8))
    code = 'print(Image.open("/data/a.jpg").size, Image.open("/data/b.png").size)'
    row = sft_row((code, "x"))
    row["image"] = ["a.jpg", "b.png"]
    source = write_jsonl(
        tmp_path / "rows.jsonl", [row | {"question": QUESTION.split("<image>")[1]}]
    )
    report = run("sft", source, tmp_path / "out", execute=True)
    assert report.kept == 1, report
    (kept,) = read_jsonl(tmp_path / "out" / "rows.images.jsonl")
    question, response = (message["content"] for message in kept["messages"])
    found = parse_user_prompt(question)
    assert found is not None and list(found.paths) == kept["images"]
    assert 'User Image Size: "200x100"' in question
    assert 'User Image Size 2: "80x48"' in question
    for path in kept["images"]:
        assert f'Image.open("{path}")' in response
