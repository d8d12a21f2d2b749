"""The panels of a run and their picture."""

import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.errors import SettingsError
from swift_thyme.view.curves import Panel, panels_of, thinned
from swift_thyme.view.curves_png import draw_curves
from swift_thyme.view.run_log import lineage_of, read_log
from swift_thyme.view.run_table import PICTURE, main
from tests.view.runs import eval_line, resumed_run, step_line, write_run


def panels(folder: Path) -> dict[str, Panel]:
    return {panel.title: panel for panel in panels_of(read_log(lineage_of(folder)))}


def test_training_and_evaluations_are_lines_of_one_panel(tmp_path: Path) -> None:
    reward = panels(resumed_run(tmp_path))["Reward"]
    assert [(line.name, line.held_out, len(line.points)) for line in reward.series] == [
        ("reward", False, 5),
        ("reward", True, 3),
    ]
    assert reward.series[0].points[2] == (3, 30.0)


def test_each_reward_function_has_a_line_and_a_metric_that_was_not_logged_none(
    tmp_path: Path,
) -> None:
    metrics = {"rewards/FmtORM/mean": 0.5, "rewards/VqaORM/mean": 1.0, "rewards/VqaORM/std": 0.1}
    found = panels(write_run(tmp_path, step_line(1, 1, **metrics)))
    assert [line.name for line in found["Reward functions"].series] == ["FmtORM", "VqaORM"]
    assert [line.name for line in found["Accuracy (vqa_orm)"].series] == ["accuracy"]
    assert "Sandbox, per answer" not in found


def test_an_end_that_a_step_did_not_have_is_zero_there(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path,
        step_line(1, 1, **{"thyme/end/answer": 1.0}),
        step_line(2, 1, **{"thyme/end/answer": 0.75, "thyme/end/turn_limit": 0.25}),
        step_line(3, 1),
    )
    ends = {line.name: line.points for line in panels(folder)["Ends"].series}
    assert ends == {"answer": ((1, 1.0), (2, 0.75)), "turn limit": ((1, 0.0), (2, 0.25))}


def test_many_points_become_means_and_few_stay() -> None:
    points = [(step, float(step % 2)) for step in range(1000)]
    assert thinned(points[:10], 10) == points[:10]
    few = thinned(points, 100)
    assert len(few) == 100
    assert few[0] == (4.5, 0.5)


def test_the_command_draws_the_curves_beside_the_log(tmp_path: Path) -> None:
    newer = resumed_run(tmp_path)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--plot"])
    assert result.exit_code == 0, result.output
    assert "5 training steps" in result.output
    assert "one run with v0-20260101-000000" in result.output
    assert str(newer / PICTURE) in result.output
    with Image.open(newer / PICTURE) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_names_of_rewards_are_no_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    metrics = {r"rewards/_$\frac$/mean": 0.5, "rewards/_/mean": 0.5, "rewards/\u6587/mean": 1.0}
    folder = write_run(tmp_path / "$x_$", step_line(1, 1, **metrics), eval_line(1, 1))
    draw_curves(read_log(lineage_of(folder)), tmp_path / "curves.png")
    assert Image.open(io.BytesIO((tmp_path / "curves.png").read_bytes())).format == "PNG"


def test_without_matplotlib_the_extra_is_named_and_the_table_still_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = resumed_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(SettingsError, match=r"swift_thyme\[sandbox\]"):
        draw_curves(read_log(lineage_of(folder)), tmp_path / "curves.png")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--plot"])
    printed = capsys.readouterr()
    assert "5 training steps" in printed.out
    assert printed.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (resumed_run(tmp_path) / PICTURE).mkdir()
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--plot"])
    assert "curves.png cannot be written" in capsys.readouterr().err
