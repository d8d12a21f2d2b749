"""Rows whose code is run in the real sandbox."""

import os
from pathlib import Path

import pytest

from swift_thyme.core.errors import SandboxUnavailableError, SettingsError
from swift_thyme.data import JobOptions, run_job
from tests.data.builders import make_picture, rejections, run, sft_row, write_jsonl

SAVE = (
    'crop = Image.open("/data/a.jpg").crop((0, 0, 64, 64))\n'
    'processed_path = "/mnt/data/temp_processed_images/c.png"\n'
    "crop.save(processed_path)\nprint(processed_path)"
)

ROWS = {
    "prints": (sft_row(("print(1)", "1")), None),
    "raises": (sft_row(("1 / 0", "1")), "code_failed"),
    "crops": (sft_row((SAVE, "<image>")), None),
    "prints a path that it did not write": (
        sft_row(("print('/mnt/data/temp_processed_images/no.png')", "<image>")),
        "output_image_missing",
    ),
    "prints nothing": (sft_row(("x = 1", "1")), "output_missing"),
    "state goes to the next block": (sft_row(("x = 5\nprint(x)", "5"), ("print(x)", "5")), None),
    "state does not come from another row": (sft_row(("print(x)", "5")), "code_failed"),
    "fails in the second block": (
        sft_row(("print(1)", "1"), ("import nothing_of_that_name", "1")),
        "code_failed",
    ),
    "the crop is there in the second block": (
        sft_row((SAVE, "<image>"), ("print(crop.size)", "(64, 64)")),
        None,
    ),
    "one image too few": (sft_row((SAVE, "<image>\n<image>")), "output_image_missing"),
    "runs for ever": (sft_row(("while True: pass", "1")), "code_failed"),
    "leaves the process": (sft_row(("import os\nos._exit(0)", "1")), "code_failed"),
    "runs nothing": (
        {"question": "q", "response": "<think>a</think><answer>1</answer>", "image": []},
        None,
    ),
}


@pytest.mark.slow
def test_exactly_the_rows_whose_code_fails_are_dropped(tmp_path: Path) -> None:
    make_picture(tmp_path)
    source = write_jsonl(tmp_path / "c.jsonl", [row for row, _ in ROWS.values()])
    report = run("sft", source, tmp_path / "out", execute=True, timeout_s=3.0)
    planted = {
        number: reason for number, (_, reason) in enumerate(ROWS.values(), 1) if reason is not None
    }
    assert rejections(tmp_path / "out") == planted
    assert report.executed_rows == len(ROWS) - 1


def test_a_sandbox_that_cannot_run_ends_the_job_and_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_picture(tmp_path)
    source = write_jsonl(tmp_path / "c.jsonl", [sft_row(("print(1)", "1"))])
    # In the data worker, what would start the sandbox's Python ends at once.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\nif any('spawn_main' in a for a in sys.orig_argv):\n"
        "    sys.executable = '/bin/false'\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    options = JobOptions(
        kind="sft", inputs=(str(source),), out=str(tmp_path / "out"), workers=1, execute=True
    )
    with pytest.raises(SandboxUnavailableError, match=r"c\.jsonl"):
        run_job(options)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()
    assert not list((tmp_path / "out" / ".work" / "shards").iterdir())


def test_execution_of_rows_without_code_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--execute"):
        run("rl", tmp_path, tmp_path / "out", execute=True)
