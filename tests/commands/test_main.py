"""The ``thyme`` command as a user calls it."""

import json
from pathlib import Path

import pytest
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


def test_a_program_is_explained_as_it_was_run(tmp_path: Path) -> None:
    block = tmp_path / "a.py"
    block.write_text("print(cv.__name__)")
    result = CliRunner().invoke(app, ["sandbox", "--explain", str(block)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[:3] == [
        f"# {block}, repaired: cv2_alias",
        "import cv2 as cv",
        "print(cv.__name__)",
    ]


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--endpoint", "http://127.0.0.1:9/v1", "--save", "{file}/x", "Q?"),
        ("data", "sft", "{rows}", "--out", "{file}/x"),
        ("data", "rl", "{rows}", "--out", "{file}/x"),
        ("view", "{kept}", "--output", "{file}/page.html"),
        ("report", "{file}/x"),
    ],
)
def test_a_place_that_cannot_be_written_or_read_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    # Root may write everywhere; below a file nobody can.
    places = {name: tmp_path / name for name in ("file", "rows", "kept")}
    places["file"].touch()
    places["rows"] = tmp_path / "rows.jsonl"
    places["rows"].write_text('{"question": "q"}\n')
    places["kept"].mkdir()
    line = '{"step": ["1"], "completion": ["a"], "prompt": ["b"]}\n'
    (places["kept"] / "completions.jsonl").write_text(line)
    argv = [argument.format(**places) for argument in arguments]
    run = run_program(python_program("-m", "swift_thyme.commands.main", *argv))
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert str(places["file"]) in run.stderr
    assert not run.stderr.startswith("error: [Errno")


@pytest.mark.parametrize("command", ["plugin", "doctor", "data"])
def test_every_command_names_misspelt_variables(command: str) -> None:
    arguments = [command, "rl", "--help"] if command == "data" else [command]
    if command == "doctor":
        arguments.append("--help")
    run = run_program(
        python_program("-m", "swift_thyme.commands.main", *arguments), THYME_SANDBX="strict"
    )
    assert run.returncode == 0
    assert "'THYME_SANDBX' (did you mean THYME_SANDBOX?)" in run.stderr


def test_a_module_to_preload_that_is_missing_is_named(tmp_path: Path) -> None:
    block = tmp_path / "a.py"
    block.write_text("print(1)")
    run = run_program(
        python_program("-m", "swift_thyme.commands.main", "sandbox", str(block)),
        THYME_SANDBOX_PRELOAD="numpy,not_there",
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    # The second line is the log's, about the lost worker.
    lines = run.stderr.splitlines()
    assert len(lines) <= 2
    assert "THYME_SANDBOX_PRELOAD: a sandbox worker cannot import 'not_there'" in lines[-1]


def test_a_picture_in_place_of_a_program_is_named(tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8")
    result = CliRunner().invoke(app, ["sandbox", str(picture)])
    assert result.exit_code == 2
    assert f"{picture} is no Python file; a picture is given with --image" in result.output
