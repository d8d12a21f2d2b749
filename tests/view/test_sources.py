"""What is found at a path, and how ms-swift's text log is read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.errors import DataError
from swift_thyme.core.segment import SegmentKind
from swift_thyme.core.trajectory_files import TrajectoryWriter
from swift_thyme.view.completions import read_completions
from swift_thyme.view.sources import load
from tests.view.runs import resumed_run, step_line, write_run
from tests.view.samples import make_record, write_folder

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPT = (
    "<|im_start|>system\nYou may write Python.<|im_end|>\n<|im_start|>user\n"
    f'{IMAGE}\nWhich colour?\n\nUser Image Path: "/data/a.jpg"\nUser Image Size: "9x9"<|im_end|>\n'
    "<|im_start|>assistant\n"
)
COMPLETION = (
    "<think>Look. <code>\n```python\nprint(1)\n```\n</code>"
    f"<sandbox_output>1\n{IMAGE}</sandbox_output>Red.</think>\n<answer>red</answer>"
)


def make_table(step: int, *completions: str, **columns: list[Any]) -> dict[str, Any]:
    n = len(completions)
    return {
        "step": [str(step)] * n,
        "prompt": [PROMPT] * n,
        "completion": list(completions),
        "FmtORM": [0.5] * n,
        "VqaORM": [float("nan")] * n,
        "advantages": [0.25 * i for i in range(n)],
        "solution": ["red"] * n,
        "num_turns": [2] * n,
        **columns,
    }


def write_log(folder: Path, *tables: dict[str, Any], tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "completions.jsonl"
    path.write_text("".join(json.dumps(table) + "\n" for table in tables) + tail)
    return path


def test_a_row_of_the_text_log_becomes_a_trajectory(tmp_path: Path) -> None:
    (record,) = read_completions(write_log(tmp_path, make_table(3, COMPLETION)))
    kinds = [segment.kind.value for segment in record.segments]
    assert kinds == ["text", "code", "observation", "text"]
    assert record.completion == COMPLETION.replace(IMAGE, "<image>")
    assert record.step == 3
    assert record.question == "Which colour?"
    assert record.system == "You may write Python."
    assert record.answer == "red"
    assert record.reference == ("red",)
    assert record.rewards == {"FmtORM": 0.5, "VqaORM": None}
    assert record.tool_used
    assert record.end_reason is None
    assert record.meta == {"advantage": 0.0}


@pytest.mark.parametrize(
    ("completion", "turns", "used"),
    [
        (COMPLETION, 2, True),
        (COMPLETION, 1, False),
        ("<think>No tool.</think><answer>red</answer>", 1, False),
        (COMPLETION.replace(f"1\n{IMAGE}", "Error: NameError: x"), 2, False),
        (COMPLETION.replace(f"1\n{IMAGE}", "1\nError: NameError: x"), 2, False),
    ],
    ids=["ran", "wrote the output itself", "no code", "failed", "printed, then failed"],
)
def test_tool_use_is_read_from_turns_and_output(
    tmp_path: Path, completion: str, turns: int, used: bool
) -> None:
    table = make_table(1, completion, num_turns=[turns])
    (record,) = read_completions(write_log(tmp_path, table))
    assert record.tool_used is used


def test_rows_that_were_logged_twice_appear_once(tmp_path: Path) -> None:
    first = make_table(1, "a", "b", "c", "d")
    # An evaluation pushes two rows out of ms-swift's window; the end of the run logs it again.
    second = make_table(1, "c", "d", "e", "f", advantages=[0.5, 0.75, 0.0, 0.0])
    log = write_log(tmp_path, first, second, second | {"step": ["2"] * 4})
    records = list(read_completions(log))
    assert [record.completion for record in records] == list("abcdef")
    assert len({record.id for record in records}) == 6


def test_equal_samples_of_one_step_are_all_kept(tmp_path: Path) -> None:
    log = write_log(tmp_path, make_table(1, "a", "a", advantages=[0.5, 0.5]))
    assert len(list(read_completions(log))) == 2


def test_a_line_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    log = write_log(tmp_path, make_table(1, "a"), tail='{"step": ["2"], "pro')
    assert len(list(read_completions(log))) == 1


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path, make_table(1, "a"), {"step": ["1"]})
    with pytest.raises(DataError, match=r"completions\.jsonl, line 2"):
        list(read_completions(log))


def test_kept_trajectories_stand_for_the_text_of_the_same_run(tmp_path: Path) -> None:
    write_log(tmp_path / "v0", make_table(1, "text"))
    write_folder(tmp_path / "v0" / "trajectories" / "rank0", 3)
    write_folder(tmp_path / "v0" / "trajectories" / "rank1", 2)
    loaded = load([tmp_path])
    assert len(loaded) == 5
    assert not any(item.text_only for item in loaded)
    assert {item.record.run for item in loaded} == {"train"}
    (text,) = load([tmp_path / "v0" / "completions.jsonl"])
    assert text.text_only
    assert text.record.segments[0].kind is SegmentKind.TEXT


def test_several_runs_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    write_log(tmp_path / "v0", make_table(1, "text"))
    write_folder(tmp_path / "v1" / "trajectories" / "rank0", 1)
    assert {item.record.run for item in load([tmp_path])} == {"v0", "v1 / train"}
    both = load([tmp_path / "v0", tmp_path / "v1"])
    assert {item.record.run for item in both} == {"v0", "v1 / train"}


def keep(folder: Path, *steps: int, run: str = "train") -> None:
    """Append a kept trajectory for each step of an output folder."""
    with TrajectoryWriter(folder / "trajectories" / "rank0") as writer:
        for step in steps:
            record = dataclasses.replace(make_record(0), run=run, step=step, id=f"{folder.name}")
            writer.write(record)


def places(paths: list[Path]) -> list[tuple[str, int | None, str]]:
    return [(item.record.id[:2], item.record.step, item.record.run) for item in load(paths)]


def test_a_run_that_was_resumed_is_one_run_and_shows_each_step_once(tmp_path: Path) -> None:
    newer = resumed_run(tmp_path)
    older = tmp_path / "v0-20260101-000000"
    keep(older, 1, 2, 3, 4)
    keep(newer, 3, 4, 5)
    assert places([tmp_path]) == [
        *[("v0", step, "train") for step in (1, 2)],
        *[("v1", step, "train") for step in (3, 4, 5)],
    ]
    # `--eval_on_start true` evaluates the checkpoint a second time.
    for folder in (older, newer):
        keep(folder, 2, run="eval")
    evaluated = [place for place in places([tmp_path]) if place[2] == "eval"]
    assert evaluated == [("v1", 2, "eval")]
    # A file that is named is shown as it is, and runs of no kin keep their names.
    assert len(load([older / "trajectories" / "rank0" / "trajectories.jsonl"])) == 5
    keep(write_run(tmp_path / "other", step_line(1, 1)), 1)
    assert {run for _, _, run in places([tmp_path])} == {
        *(f"{newer.name} / train", f"{newer.name} / eval", "other / train"),
    }


def test_a_run_that_went_on_in_its_folder_shows_each_step_once(tmp_path: Path) -> None:
    write_run(tmp_path, step_line(1, 1))
    for steps in ([1, 1, 2, 2, 3], [2, 2, 3]):
        keep(tmp_path, *steps)
    keep(tmp_path, 3, run="eval")
    kept = [(step, run) for _, step, run in places([tmp_path])]
    train, evaluated = "train", "eval"
    assert kept == [(1, train), (1, train), (2, train), (2, train), (3, train), (3, evaluated)]


def test_steps_of_other_programs_are_left_as_they_are(tmp_path: Path) -> None:
    keep(tmp_path, 2, 1, 2)
    assert [step for _, step, _ in places([tmp_path])] == [2, 1, 2]


def test_a_log_that_is_broken_costs_the_curves_alone(tmp_path: Path) -> None:
    keep(write_run(tmp_path, step_line(1, 1)), 1)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["view", str(tmp_path), "-o", str(page)])
    assert '"panels":[{"title":"Reward"' in page.read_text()
    (tmp_path / "logging.jsonl").write_text("{\n")
    result = CliRunner().invoke(app, ["view", str(tmp_path), "-o", str(page)])
    assert result.exit_code == 0, result.output
    assert "no curves" in result.output
    assert '"curves":[]' in page.read_text()


def test_a_folder_without_trajectories_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("{}\n")
    result = CliRunner().invoke(app, ["view", str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert isinstance(result.exception, DataError)
    message = str(result.exception)
    assert "trajectories*.jsonl" in message
    assert "completions.jsonl" in message
    assert "--log_completions true" in message
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("text", ["", "not JSON\n", "[1]\n", '{"format": 1}\n', "\0\xff\n"])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"x\.jsonl: not a file of trajectories"):
        load([path])


def test_a_run_that_has_kept_nothing_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").write_text('{"format": 1, "id')
    with pytest.raises(DataError, match="no finished trajectory"):
        load([tmp_path])
    with pytest.raises(DataError, match="no such file"):
        load([tmp_path / "gone"])


def test_the_page_can_neither_replace_its_source_nor_a_folder(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "run", 1) / "trajectories.jsonl"
    before = source.read_bytes()
    for output in (source, tmp_path):
        result = CliRunner().invoke(app, ["view", str(source), "-o", str(output)])
        assert isinstance(result.exception, DataError)
        assert "--output" in str(result.exception)
    assert source.read_bytes() == before
