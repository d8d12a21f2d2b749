"""Comparison with another model: its folder is read, and questions that differ are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from swift_thyme.commands import evaluate
from swift_thyme.commands.main import app
from swift_thyme.core.errors import DataError
from swift_thyme.evaluation.arms import Arm
from swift_thyme.evaluation.base import base_outcomes, check_base
from swift_thyme.evaluation.run import Job
from tests.evaluation.test_results_page import data_of
from tests.evaluation.test_run import NO_POOL, answer, make_evaluation, make_jobs, run
from tests.inference.builders import ScriptedServer

from .builders import row, write_tsv


async def test_its_plain_replies_are_a_column_and_its_verdicts_are_its_own(tmp_path: Path) -> None:
    other = make_evaluation(tmp_path / "other", n=3)
    await run(
        other,
        [answer("A"), "A", "B", "a warm colour"],
        [make_jobs(other)[0], *make_jobs(other, Arm.PLAIN)],
    )
    mine = make_evaluation(tmp_path / "mine", n=3)
    assert check_base(mine, other.out) == other.out
    jobs = [Job(item, 1, Arm.BASE) for item in mine.dataset.items]
    found = base_outcomes(mine, other.out, jobs)
    assert [o.score for o in found] == [1.0, 0.0, 0.0]
    assert {o.record.run for o in found} == {"plain base"}
    own = {Job(item, 1, Arm.PLAIN).id for item in mine.dataset.items}
    assert not own & {o.record.id for o in found}
    path = other.out / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model.model": "a third one"}))
    third = base_outcomes(mine, other.out, jobs)
    assert not {o.record.id for o in third} & {o.record.id for o in found}


async def test_what_cannot_be_compared_is_refused_before_a_run(tmp_path: Path) -> None:
    mine = make_evaluation(tmp_path / "mine", n=2)
    with pytest.raises(DataError, match=r"--base .*gone: holds no reply .*--tools plain"):
        check_base(mine, tmp_path / "gone")
    other = make_evaluation(tmp_path / "other", n=2, seed=3)
    await run(other, [answer("A")] * 2, make_jobs(other))
    with pytest.raises(DataError, match="holds no reply to the plain prompt"):
        check_base(mine, other.out)
    await run(other, ["A"] * 2, make_jobs(other, Arm.PLAIN))
    with pytest.raises(DataError, match=r"other questions were asked there \(seed was 3, is 0\)"):
        check_base(mine, other.out)


def test_the_command_compares_two_models_and_shows_both_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[Any] = []

    async def scripted(todo: Any, *given: Any) -> None:
        engine = await ScriptedServer(replies).engine()
        for evaluation, jobs in todo:
            await evaluation.run(engine, NO_POOL, jobs, concurrency=1)
        await engine.close()

    monkeypatch.setattr(evaluate, "_run", scripted)
    names = ("first", "second")
    data = [write_tsv(tmp_path / f"{name}.tsv", [row(i) for i in range(3)]) for name in names]
    files = [word for path in data for word in ("--data", str(path))]

    def command(out: str, *more: str) -> Any:
        common = ["--endpoint", "http://a/v1", "--no-shuffle", "--out", str(tmp_path / out)]
        return CliRunner().invoke(app, ["eval", *files, *common, *more])

    replies[:] = ["A", "B", "B"] * 2
    result = command("base", "--tools", "plain")
    assert result.exit_code == 0, result.output
    replies[:] = [answer("A")] * 6
    result = command("mine", "--base", str(tmp_path / "base"))
    assert result.exit_code == 0, result.output
    for name in names:
        report = json.loads((tmp_path / "mine" / name / "report.json").read_text())
        effect = report["results"]["effects"]["base"]
        assert (effect["both_right"], effect["only_with"], effect["difference"]["n"]) == (1, 2, 3)
        assert report["results"]["base"]["missing"] == 0
        assert report["base"] == {
            "folder": str(tmp_path / "base" / name),
            "model": "http://a/v1",
        }
    assert "base model" in result.output
    page = data_of(tmp_path / "mine" / "results.html", "data")
    assert sum("/run1/base-" in trajectory["id"] for trajectory in page["trajectories"]) == 6
    assert None not in page["images"]
    assert not list((tmp_path / "mine").rglob("*-base*.tsv"))
    result = command("mine", "--base", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, DataError)
    assert "--base" in str(result.exception)
