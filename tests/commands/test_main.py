"""The ``thyme`` command as a user calls it."""

import json
from pathlib import Path

from typer.testing import CliRunner

import swift_thyme
from swift_thyme.commands.main import app
from tests.conftest import python_program, run_program


def test_a_block_is_run_and_reported_as_json(tmp_path: Path) -> None:
    block = tmp_path / "a.py"
    block.write_text("print(6 * 7)")
    result = CliRunner().invoke(app, ["sandbox", "--json", str(block)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["status"] == "ok"
    assert report["stdout"] == "42\n"


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == swift_thyme.__version__


def test_an_error_of_ours_is_one_line(tmp_path: Path) -> None:
    block = tmp_path / "a.py"
    block.write_text("print(1)")
    run = run_program(
        python_program("-m", "swift_thyme.commands.main", "sandbox", str(block)),
        THYME_SANDBOX="perhaps",
    )
    assert run.returncode == 2
    assert "THYME_SANDBOX" in run.stderr
    assert "Traceback" not in run.stderr
