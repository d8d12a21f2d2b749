"""A file with many kinds of broken rows: evaluation and training leave out the same ones."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.errors import DataError, ThymeError
from swift_thyme.evaluation.arms import Arm
from swift_thyme.evaluation.outcome import outcomes
from swift_thyme.evaluation.results import build_report
from swift_thyme.evaluation.run import EvalSettings, Evaluation, Job
from swift_thyme.evaluation.tsv import read_tsv
from swift_thyme.inference.loop import LoopSettings
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from tests.data.builders import make_picture, read_jsonl, rejections, run, write_jsonl
from tests.evaluation.builders import row, write_tsv
from tests.inference.builders import ScriptedServer


def noise_png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = noise_png((120, 80))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


BROKEN: dict[str, dict[str, Any]] = {
    "image_broken": {"image": text(PICTURE[: len(PICTURE) // 2])},
    "image_aspect": {"image": text(noise_png((4, 1200)))},
    "image_base64": {"image": text(PICTURE)[:90] + "!" + text(PICTURE)[91:]},
    "image_format": {"image": text(b"hello" * 60)},
    "no_image": {"image": ""},
    "image_file": {"image": "['gone.png', 'gone2.png']"},
    "missing_column": {"answer": ""},
    "empty_answer": {"answer": "nan", "A": "", "B": "", "C": "", "D": ""},
    "answer_no_option": {"answer": "E"},
    "bad_options": {"B": ""},
    "empty_question": {"question": "nan"},
    "bad_tsv": {"question": "TAB"},
    "bad_unicode": {"question": "LATIN"},
}
"""Reason of a rejection and the cells that bring it about."""
SEEN_LATER = {"image_broken", "image_aspect"}
"""What ``thyme eval`` sees when a row's turn comes: its first pass decodes nothing."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, with a stray tab and a foreign encoding where the words stand for them."""
    data = write_tsv(path, rows).read_bytes()
    path.write_bytes(data.replace(b"TAB", b"a\tb").replace(b"LATIN", b"caf\xe9"))
    return path


def broken_file(path: Path, rows: int) -> dict[int, str]:
    """Write a file in which each kind of fault stands once; return the reasons by row number."""
    faults = {3 + 7 * i: reason for i, reason in enumerate(BROKEN)}
    good = {"image": text(PICTURE)}
    write(path, [row(n) | good | BROKEN.get(faults.get(n, ""), {}) for n in range(1, rows + 1)])
    return faults


def test_thyme_data_rejects_each_for_its_reason_and_keeps_the_rest(tmp_path: Path) -> None:
    faults = broken_file(tmp_path / "t.tsv", 200)
    report = run("rl", tmp_path / "t.tsv", tmp_path / "out", rows_per_shard=64)
    assert rejections(tmp_path / "out") == faults
    assert (report.rows, report.kept, report.rejected) == (200, 200 - len(BROKEN), len(BROKEN))
    kept = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    assert all(len(line["images"]) == 1 for line in kept)


async def test_thyme_eval_leaves_out_the_same_rows_and_runs_the_rest(tmp_path: Path) -> None:
    faults = broken_file(tmp_path / "t.tsv", 200)
    dataset = read_tsv(tmp_path / "t.tsv")
    early = {n for n, reason in faults.items() if reason not in SEEN_LATER}
    assert set(dataset.problems) == early
    settings = EvalSettings(system="S", loop=LoopSettings(), shuffle=False)
    evaluation = Evaluation(dataset, tmp_path / "out", settings, {"model": "scripted"})
    jobs = [Job(item, 1, Arm.PLAIN) for item in dataset.items]
    n_good = 200 - len(BROKEN)
    engine = await ScriptedServer(["A"] * n_good).engine()
    with SandboxPool(SandboxSettings(workers=1)) as pool:
        progress = await evaluation.run(engine, pool, jobs, concurrency=8)
    await engine.close()
    assert progress == (n_good, len(SEEN_LATER), 200 - len(early))
    assert set(evaluation.problems) == set(faults)
    report = build_report(evaluation, jobs, outcomes(evaluation, jobs))
    assert report["results"]["plain"]["trajectories"] == n_good
    assert [named["row"] for named in report["unusable_rows"]] == sorted(faults)
    assert all(named["reason"] for named in report["unusable_rows"])


@pytest.mark.parametrize("reason", list(BROKEN))
def test_a_strict_job_stops_at_the_row(tmp_path: Path, reason: str) -> None:
    good = {"image": text(PICTURE)}
    source = write(tmp_path / "t.tsv", [row(1) | good, row(2) | good | BROKEN[reason]])
    with pytest.raises(ThymeError, match=rf"t\.tsv row 2: {reason}: .*\(--strict\)"):
        run("rl", source, tmp_path / "out", strict=True)


def test_strict_and_not_strict_go_on_from_each_other(tmp_path: Path) -> None:
    make_picture(tmp_path)
    rows = [{"image": "a.jpg", "question": "q?", "answer": "x"}] * 3
    source = write_jsonl(tmp_path / "t.jsonl", [*rows, {"question": "q?"}])
    out = tmp_path / "out"
    with pytest.raises(ThymeError, match="row 4"):
        run("rl", source, out, rows_per_shard=1, strict=True)
    assert run("rl", source, out, rows_per_shard=1).rejected == 1
    with pytest.raises(DataError, match=r"1 rows were rejected, see .*rejected\.jsonl"):
        run("rl", source, out, rows_per_shard=1, strict=True)


def test_where_one_row_has_several_solutions_all_have_lists(tmp_path: Path) -> None:
    make_picture(tmp_path)
    rows = [{"image": "a.jpg", "question": "q?", "answer": "x"}] * 3
    rows.append({"image": "a.jpg", "question": "q?", "answer": ["y", "z"]})
    run("rl", write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out", rows_per_shard=1)
    kept = read_jsonl(tmp_path / "out" / "t.rl.jsonl")
    assert [line["solution"] for line in kept] == [["x"], ["x"], ["x"], ["y", "z"]]


def test_blank_lines_of_a_tsv_are_no_rows(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "t.tsv", [row(1, image=text(PICTURE)), row(2, image="1")])
    path.write_text(path.read_text().replace("\n", "\n\n"))
    report = run("rl", path, tmp_path / "out")
    assert (report.rows, report.kept) == (2, 2)
