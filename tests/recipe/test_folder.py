"""The folder that ``thyme init`` writes, and the recipe's scripts in it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift_thyme.core.errors import SettingsError
from swift_thyme.plugins import Plugin, plugin_file
from swift_thyme.recipe.folder import recipe_files, write_folder
from tests.conftest import TINY_MODEL, python_program, run_program
from tests.e2e.test_training_scripts import CPU, RL_SAMPLES, make_program, make_recorder

PLUGIN = plugin_file(Plugin.AGENT_RM)
SCRIPTS = ("sft_stage1.sh", "sft_stage2.sh", "rl.sh", "rl_server.sh")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_everything_is_written_once(tmp_path: Path) -> None:
    job = tmp_path / "new" / "job"
    first = write_folder(job, PLUGIN)
    assert set(first.new) == contents(job).keys() >= {*SCRIPTS, "rl.yaml", ".deepspeed_env"}
    assert first.same == ()
    before = contents(job)
    second = write_folder(job, PLUGIN)
    assert second.new == ()
    assert set(second.same) == set(first.new)
    assert contents(job) == before


def test_what_the_user_changed_stays_unless_forced(tmp_path: Path) -> None:
    write_folder(tmp_path, PLUGIN)
    before = contents(tmp_path)
    (tmp_path / "rl.yaml").write_text("model: mine\n")
    (tmp_path / "common.sh").unlink()
    with pytest.raises(SettingsError, match=r"were changed: rl\.yaml; nothing was written"):
        write_folder(tmp_path, PLUGIN)
    assert not (tmp_path / "common.sh").exists()
    written = write_folder(tmp_path, PLUGIN, force=True)
    assert set(written.new) == {"rl.yaml", "common.sh"}
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/job cannot be written: Not a directory"):
        write_folder(tmp_path / "file" / "job", PLUGIN)
    (tmp_path / "rl.sh").mkdir()
    with pytest.raises(SettingsError, match=r"rl\.sh cannot be written: Is a directory"):
        write_folder(tmp_path, PLUGIN)


def test_the_variables_name_no_judge_that_is_not_there(tmp_path: Path) -> None:
    write_folder(tmp_path, PLUGIN)
    lines = (tmp_path / ".deepspeed_env").read_text().splitlines()
    example = (tmp_path / "deepspeed_env.example").read_text().splitlines()
    assert set(example) - set(lines) == {
        "REWARD_API_ADDRESS=http://10.0.0.1",
        "QWEN_API_PORT=8000,8001",
    }
    assert "GEN_ITER_LIMIT=5" in lines


@pytest.mark.parametrize("name", ["job", 'a "quoted" name: #1'])
def test_the_configuration_holds_the_paths(tmp_path: Path, name: str) -> None:
    job = tmp_path / name
    write_folder(job, PLUGIN)
    config = yaml.safe_load((job / "rl.yaml").read_text())
    assert config["system"] == str(job / "prompt.txt")
    assert config["external_plugins"] == [str(PLUGIN)]
    assert PLUGIN.is_file() and (job / "prompt.txt").is_file()


def in_the_form_of_a_flag(value: Any) -> list[Any]:
    """Return what a value of the YAML file is as words of a command line, numbers as numbers."""
    if isinstance(value, dict):
        return [value]
    return [comparable(str(item)) for item in (value if isinstance(value, list) else [value])]


def comparable(word: str) -> Any:
    if word.startswith("{"):
        return json.loads(word)
    try:
        return float(word)
    except ValueError:
        return word.lower() if word in ("True", "False") else word


def record(job: Path, script: str, bin_folder: Path, **variables: str) -> dict[str, list[Any]]:
    """Run a script of a folder with `sh` and return the flags that it gives to `swift`."""
    make_recorder(bin_folder, "swift")
    path = make_program(bin_folder, "thyme", f'[ "$*" = plugin ] && echo "{PLUGIN}"')
    run = run_program(["sh", str(job / script)], PATH=path, **variables)
    assert run.returncode == 0, run.stderr
    flags: dict[str, list[Any]] = {}
    name = ""
    for word in (bin_folder / "swift.argv").read_text().splitlines()[1:]:
        if word.startswith("--"):
            name = word[2:]
            flags[name] = []  # a later one overrides
        else:
            flags[name].append(comparable(word))
    return flags


def test_the_configuration_says_what_the_script_says(tmp_path: Path) -> None:
    job = tmp_path / "job"
    write_folder(job, PLUGIN)
    config = yaml.safe_load((job / "rl.yaml").read_text())
    variables = {
        "MODEL": config["model"],
        "DATASET": " ".join(config["dataset"]),
        "SAVE_PATH": config["output_dir"],
    }
    flags = record(job, "rl.sh", tmp_path / "bin", **variables)
    seen = (tmp_path / "bin" / "swift.env").read_text().splitlines()
    assert f"MAX_PIXELS={config.pop('ENV')['MAX_PIXELS']}" in seen
    assert flags == {name: in_the_form_of_a_flag(value) for name, value in config.items()}


def test_a_script_in_a_folder_takes_the_installed_plugin(tmp_path: Path) -> None:
    write_folder(tmp_path / "job", PLUGIN)
    given = {"MODEL": "m", "DATASET": "d", "SAVE_PATH": "s"}
    flags = record(tmp_path / "job", "sft_stage2.sh", tmp_path / "bin", **given)
    assert flags["external_plugins"] == [str(PLUGIN)]
    assert flags["system"] == [str(tmp_path / "job" / "prompt.txt")]
    assert flags["learning_rate"] == [1e-6]


def test_a_script_without_the_command_says_so(tmp_path: Path) -> None:
    write_folder(tmp_path / "job", PLUGIN)
    path = make_program(tmp_path / "bin", "thyme", "exit 1")
    given = {"MODEL": "m", "DATASET": "d", "SAVE_PATH": "s"}
    run = run_program(["sh", str(tmp_path / "job" / "rl.sh")], PATH=path, **given)
    assert run.returncode == 2
    assert "error: the command thyme does not run" in run.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("shell", [("sh",), ("dash",), ("bash", "--posix")], ids=" ".join)
def test_the_scripts_run_under_any_sh(script: str, shell: tuple[str, ...]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]}")
    run = run_program([*shell, f"scripts/{script}"], MODEL="")
    assert run.returncode == 2
    assert run.stderr.startswith("error: MODEL is not set")


ACCEPTS = """
import json, sys
from swift.arguments import RLHFArguments
from swift.cli.main import parse_yaml_args
from swift.utils import parse_args
argv = sys.argv[1:]
parse_yaml_args(argv)
found, left = parse_args(RLHFArguments, argv)
names = ("multi_turn_scheduler", "learning_rate", "tuner_type", "stop_words", "reward_funcs")
print("FOUND" + json.dumps([left, {name: getattr(found, name) for name in names}]))
"""


@pytest.mark.slow
def test_ms_swift_accepts_the_configuration(tmp_path: Path) -> None:
    write_folder(tmp_path, PLUGIN)
    flags = [*CPU, *RL_SAMPLES, "--model", str(TINY_MODEL), "--dataset", "d"]
    argv = python_program("-c", ACCEPTS, str(tmp_path / "rl.yaml"), *flags)
    run: subprocess.CompletedProcess[str] = run_program(argv, NPROC_PER_NODE="1")
    line = next((x for x in run.stdout.splitlines() if x.startswith("FOUND")), None)
    assert line is not None, run.stderr[-3000:]
    left, found = json.loads(line.removeprefix("FOUND"))
    assert left == []
    assert found["multi_turn_scheduler"] == "o3"
    assert found["learning_rate"] == 5e-7
    assert found["tuner_type"] == "full"
    assert found["reward_funcs"] == ["fmt_orm", "vqa_orm", "cst_orm"]


def test_the_prompt_for_relative_coordinates_says_one_thing_more(tmp_path: Path) -> None:
    found = recipe_files(tmp_path, PLUGIN)
    usual = found["prompt.txt"].splitlines()
    more = [line for line in found["prompt_0_to_1000.txt"].splitlines() if line not in usual]
    assert len(more) == 1 and "x * width / 1000" in more[0]
    assert [line for line in found["prompt_0_to_1000.txt"].splitlines() if line in usual] == usual
