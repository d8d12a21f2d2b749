"""``thyme plugin`` and ``thyme init`` as a user calls them."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.plugins import Plugin
from tests.conftest import ROOT, python_program, run_program


def printed(*argv: str) -> str:
    result = CliRunner().invoke(app, argv, env={"COLUMNS": "30"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_file_of_the_main_job_is_printed_alone_on_one_line() -> None:
    output = printed("plugin")
    assert output == printed("plugin", "agent_rm")
    assert shlex.split(output) == [output.rstrip("\n")]
    assert Path(output.rstrip("\n")) == ROOT / "swift_thyme" / "plugins" / "agent_rm.py"


def test_every_plugin_file_has_its_name() -> None:
    files = {path.stem for path in (ROOT / "swift_thyme" / "plugins").glob("[!_]*.py")}
    assert {plugin.value for plugin in Plugin} == files
    for plugin in Plugin:
        assert Path(printed("plugin", plugin.value).strip()).is_file()


def test_an_unknown_plugin_gets_the_list() -> None:
    result = CliRunner().invoke(app, ["plugin", "reward"])
    assert result.exit_code == 2
    assert {plugin.value for plugin in Plugin} <= set(re.findall(r"\w+", result.output))


def test_a_folder_is_written_and_left_as_it_is(tmp_path: Path) -> None:
    job = str(tmp_path / "job")
    assert "wrote common.sh" in printed("init", job)
    assert "nothing to do" in printed("init", job)


def test_a_changed_file_is_named_in_one_line(tmp_path: Path) -> None:
    job = tmp_path / "[bold]job"
    printed("init", str(job))
    (job / "rl.sh").write_text("mine\n")
    run = run_program(python_program("-m", "swift_thyme.commands.main", "init", str(job)))
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert str(job) in run.stderr and "rl.sh" in run.stderr and "--force" in run.stderr
    printed("init", str(job), "--force")
    assert (job / "rl.sh").read_text() != "mine\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [("thyme plu", {"plugin"}), ("thyme plugin rew", {"rewards_only"}), ("thyme in", {"init"})],
)
def test_a_shell_completes_commands_and_plugins(words: str, expected: set[str]) -> None:
    program = "import sys; sys.argv = ['thyme']; from swift_thyme.commands.main import main; main()"
    run = run_program(
        python_program("-c", program),
        _THYME_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert set(run.stdout.split()) == expected, run.stderr
