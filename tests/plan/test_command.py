"""``thyme plan`` as a user calls it."""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.doctor.job import read_flags
from swift_thyme.host.flag_table import REFUSED_ROWS
from swift_thyme.host.job_plan import plan_of
from tests.conftest import TINY_MODEL, python_program, run_program


def planned(*argv: str) -> str:
    result = CliRunner().invoke(app, ["plan", *argv])
    assert result.exit_code == 0, result.output
    return result.output


def flags_in(output: str, script: str) -> dict[str, object]:
    """Return the flags behind a script's name."""
    call = output.split(f"sh {script} ")[1].split("\n\n")[0]
    return read_flags(shlex.split(call.replace("\\\n", " ")))


@pytest.mark.parametrize("model", ["3B", "Qwen/Qwen3-VL-8B-Instruct", "30B-A3B", str(TINY_MODEL)])
def test_sizes_and_commands_are_printed(model: str) -> None:
    output = planned("--model", model, "--gpus", "8", "--gpu-gib", "79.6")
    assert "B parameters" in output and f"MODEL={model} " in output
    flags = flags_in(output, "rl.sh")
    refused = {name.lstrip("-") for row in REFUSED_ROWS for name in row.flags.split()}
    assert not refused & flags.keys()
    plan = plan_of(SimpleNamespace(**flags), None, 8)
    assert plan.samples_per_rollout % 4 == 0
    assert {"max_length", "gradient_accumulation_steps"} <= flags_in(output, "sft_stage1.sh").keys()
    peaks = [float(found) for found in re.findall(r"about ([\d.]+) GiB a GPU", output)]
    assert len(peaks) == 2 and max(peaks) < 79.6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--model", "7B", "--gpus", "1", "--tuner", "both"), "--tuner both: expected full or"),
        (("--model", "7B", "--gpus", "1", "--tuner", "full"), "--gpus 4 would do"),
        (("--model", "nothing", "--gpus", "1"), "--model nothing: no folder"),
        (("--model", "7B", "--gpus", "1", "--length", "4096"), "--length 4096: a picture"),
    ],
)
def test_what_cannot_be_planned_is_one_line(argv: tuple[str, ...], message: str) -> None:
    run = run_program(python_program("-m", "swift_thyme.commands.main", "plan", *argv))
    assert run.returncode == 1
    assert message in run.stderr and len(run.stderr.strip().splitlines()) == 1
