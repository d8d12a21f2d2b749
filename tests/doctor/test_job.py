"""``thyme doctor --job``: flags as words, as a file, as a script; and what it says about them."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.finding import Finding, State
from swift_thyme.doctor.job import job_findings, read_flags
from swift_thyme.doctor.job_command import recorded
from tests.conftest import ROOT, TINY_MODEL

FLAGS = [
    *("--rlhf_type", "grpo", "--model", str(TINY_MODEL), "--num_generations", "4"),
    *("--gradient_accumulation_steps", "5", "--O3", "true"),
]


def state_of(words: list[str], subject: str = "groups") -> State:
    found: dict[str, Finding] = {finding.subject: finding for finding in job_findings(words)}
    return found[f"job: {subject}"].state


def test_flags_become_values() -> None:
    argv = ["--a", "1", "--b=5e-7", "--c", "--d", "x", "y", "--e", '{"image": 6}', "--f", "-1"]
    assert read_flags(argv) == {
        **{"a": 1, "b": 5e-7, "c": True, "d": ["x", "y"]},
        **{"e": '{"image": 6}', "f": -1},
    }


@pytest.mark.parametrize("front", [[], ["swift", "rlhf"], ["rlhf"]])
def test_a_command_line_is_looked_at(front: list[str]) -> None:
    assert state_of([*front, *FLAGS]) is State.BROKEN
    assert state_of(["NPROC_PER_NODE=8", *front, *FLAGS]) is State.OK
    assert state_of(["WORLD_SIZE=16", "NPROC_PER_NODE=1", *front, *FLAGS]) is State.OK


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_is_looked_at_and_flags_behind_it_win(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / f"job.{suffix}"
    values = {"rlhf_type": "grpo", "num_generations": 4, "gradient_accumulation_steps": 5}
    file.write_text(json.dumps(values))
    assert state_of([str(file)]) is State.BROKEN
    assert state_of(["swift", "rlhf", str(file), "--num_generations", "5"]) is State.OK


def test_variables_of_a_file_count_where_the_environment_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    values = {"rlhf_type": "grpo", "num_generations": 4, "gradient_accumulation_steps": 5}
    file.write_text(json.dumps({"ENV": {"NPROC_PER_NODE": 8, "MAX_PIXELS": 1000}, **values}))
    assert state_of([str(file)]) is State.OK
    assert state_of(["NPROC_PER_NODE=3", str(file)]) is State.BROKEN


def test_a_data_set_that_is_not_there_is_named() -> None:
    assert state_of([*FLAGS, "--dataset", "gone.jsonl#100"], "dataset") is State.BROKEN
    subjects = {f.subject for f in job_findings([*FLAGS, "--dataset", "owner/name#100"])}
    assert "job: dataset" not in subjects


def test_a_script_is_run_with_a_stand_in_for_swift(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"MODEL": str(TINY_MODEL), "DATASET": "rl.jsonl", "SAVE_PATH": "out"}
    front = [f"{name}={value}" for name, value in values.items()]
    script = [*front, "NPROC_PER_NODE=8", "bash", str(ROOT / "scripts" / "rl.sh")]
    assert state_of(script) is State.OK
    assert state_of([*script, "--num_generations", "3"]) is State.BROKEN
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MAX_PIXELS", "1000")
    command = recorded(ROOT / "scripts" / "rl.sh", ["--max_steps", "1"], os.environ)
    assert command.argv[-2:] == ("--max_steps", "1")
    assert command.variables["MAX_PIXELS"] == "1000"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--rlhf_type is dpo"):
        job_findings(["--rlhf_type", "dpo"])
    with pytest.raises(SettingsError, match="swift rlhf alone, not at swift sft"):
        job_findings(["swift", "sft", "--model", "m"])
    with pytest.raises(SettingsError, match="needs the flags of swift rlhf"):
        job_findings(["swift", "rlhf"])
    with pytest.raises(SettingsError, match="--num_generations 'four': expected int"):
        job_findings(["--rlhf_type", "grpo", "--num_generations", "four"])
    with pytest.raises(SettingsError, match="got 'gpro'"):
        job_findings(["gpro"])
    with pytest.raises(DataError, match=r"gone\.json"):
        job_findings([str(tmp_path / "gone.json")])
    script = tmp_path / "other.sh"
    script.write_text("echo not this one >&2\n")
    with pytest.raises(DataError, match="calls no `swift rlhf`: not this one"):
        job_findings(["bash", str(script)])


def test_the_command_prints_a_line_each_and_ends_with_status_1_for_an_error() -> None:
    result = CliRunner().invoke(app, ["doctor", "--job", *FLAGS])
    assert result.exit_code == 1
    first = result.output.splitlines()[0]
    assert first.startswith("broken job: groups: 5 samples a rollout")
    assert "-> set --gradient_accumulation_steps to 4" in first
    result = CliRunner().invoke(app, ["doctor", "--job", "--json", "NPROC_PER_NODE=4", *FLAGS])
    assert result.exit_code == 0
    assert json.loads(result.output)["ok"] is True


def test_without_a_job_an_unknown_option_is_an_error() -> None:
    result = CliRunner().invoke(app, ["doctor", "--jsn"])
    assert result.exit_code == 2
    assert "--jsn" in result.output
