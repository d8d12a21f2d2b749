"""Rows and jobs for the tests of whole data jobs."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from swift_thyme.data import JobOptions, run_job
from swift_thyme.data.conversion_report import Report

QUESTION = '<image>\nq?\nUser Image Path: "/data/a.jpg"\nUser Image Size: "200x100"'


def make_picture(folder: Path, name: str = "a.jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 100), (9, 99, 200)).save(folder / name)
    return folder / name


def sft_row(*blocks: tuple[str, str], question: str = QUESTION) -> dict[str, Any]:
    """Return a row with an image `a.jpg` and one block per (code, recorded output)."""
    text = "".join(
        f"<code>\n```python\n{code}\n```\n</code><sandbox_output>{output}</sandbox_output>"
        for code, output in blocks
    )
    response = f"<think>x {text}</think>\n<answer>1</answer>"
    images = ["a.jpg"] * (1 + response.count("<image>"))
    return {"image": images, "question": question, "response": response}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(kind: str, source: Path, out: Path, **options: Any) -> Report:
    """Run a job with one worker and return its report."""
    given = {"workers": 1, "rows_per_shard": 8} | options
    return run_job(JobOptions(kind=kind, inputs=(str(source),), out=str(out), **given))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rejections(out: Path) -> dict[int, str]:
    """Return row number and reason of each rejected row of a job with one input file."""
    return {row["row"]: row["reason"] for row in read_jsonl(out / "rejected.jsonl")}
