"""The table at the end of the quickstart, from log files written here."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from swift_thyme.core.errors import DataError
from swift_thyme.view.run_table import RunReport, describe_gain, find_run, main, read_run, render


def write_log(folder: Path) -> Path:
    records = [
        {"eval_reward": 1.0, "eval_rewards/VqaORM/mean": 0.5, "eval_thyme/tool_use_rate": 1.0},
        *[{"reward": float(i), "thyme/images_total": 10.0 - i, "lr": "1e-5"} for i in range(8)],
        {"eval_reward": 1.5, "eval_rewards/VqaORM/mean": 0.75},
        {"train_runtime": 5.0},
    ]
    log = folder / "v0" / "logging.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n")
    return log


def test_a_log_is_read_into_before_after_and_quarters(tmp_path: Path) -> None:
    report = read_run(write_log(tmp_path))
    assert report.steps == 8
    assert report.before is not None
    assert report.before["rewards/VqaORM/mean"] == 0.5
    assert report.after is not None
    assert report.after["reward"] == 1.5
    assert report.first_steps["reward"] == 0.5
    assert report.last_steps["reward"] == 6.5
    assert report.least_images_in_a_step == 3


def test_a_value_that_the_log_lacks_is_a_dash(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(render(read_run(write_log(tmp_path))))
    (line,) = [x for x in console.export_text().splitlines() if "tool-use" in x]
    assert "1.000" in line
    assert line.count("-") >= 3 + "tool-use".count("-")


def test_the_newest_run_is_found_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no logging\.jsonl"):
        find_run(tmp_path)
    assert find_run(write_log(tmp_path).parents[1]).name == "logging.jsonl"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    log = tmp_path / "logging.jsonl"
    log.write_text('{"reward": 1}\n{"rew\n')
    with pytest.raises(DataError, match=r"logging\.jsonl:2"):
        read_run(log)


def test_the_command_reports_an_empty_folder_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leave:
        main([str(tmp_path)])
    assert leave.value.code == 1
    assert capsys.readouterr().err.startswith("error: no logging.jsonl")


def evaluated(right: int, wrong: int) -> dict[str, float]:
    return {
        "eval_reward": right / (right + wrong),
        "eval_thyme/right/VqaORM": right,
        "eval_thyme/wrong/VqaORM": wrong,
    }


def report_of(folder: Path, *records: dict[str, float]) -> RunReport:
    log = folder / "logging.jsonl"
    lines = [{**r, "global_step/max_steps": f"{i}/2"} for i, r in enumerate(records)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(log)


def test_a_gain_comes_with_its_interval(tmp_path: Path) -> None:
    # Newcombe 1998, table II, example (a): 56 of 70 and 48 of 80 differ by 0.0524 to 0.3339.
    report = report_of(tmp_path, evaluated(48, 32), evaluated(56, 14))
    sentence = describe_gain(report, 1)
    assert sentence is not None
    assert "change +0.200 [+0.052, +0.334]" in sentence
    assert "chance" not in sentence
    # Four samples of a question are one piece of evidence.
    assert "which chance explains as well" in str(describe_gain(report, 4))


@pytest.mark.parametrize(
    "records",
    [
        [evaluated(48, 48)],
        [evaluated(48, 48), {"eval_reward": 1.0}],
    ],
)
def test_no_gain_is_told_where_the_log_does_not_hold_it(
    tmp_path: Path, records: list[dict[str, float]]
) -> None:
    assert describe_gain(report_of(tmp_path, *records), 1) is None
