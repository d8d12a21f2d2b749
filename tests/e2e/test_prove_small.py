"""The small proof: its table, and a second call that repeats nothing."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_program

SIZES = ["48", "2", "1"]


def _right(line: str) -> float:
    """Return the share of right answers in a row of the table, in percent."""
    found = re.match(r"\| [\w +]+ \| 1 \| ([\d.]+) \[", line)
    assert found is not None, line
    return float(found[1])


@pytest.mark.ci
def test_the_table_compares_tool_no_tool_and_grpo_and_a_second_call_repeats_nothing(
    tmp_path: Path,
) -> None:
    command = ["bash", str(ROOT / "scripts" / "prove_small.sh"), str(tmp_path), *SIZES]
    run = run_program(command, timeout_s=580)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line for line in run.stdout.splitlines() if "| 1 |" in line]
    names = [line.split("|")[1].strip() for line in rows]
    assert names == ["no tool", "SFT", "SFT + GRPO", "SFT", "SFT + GRPO"]
    # One step changes little; grey pictures in place of crops leave nothing to read.
    assert min(_right(rows[1]), _right(rows[2])) > 30
    assert max(_right(rows[3]), _right(rows[4])) < 15
    again = run_program(command, timeout_s=60)
    assert again.returncode == 0 and not re.search(r"\d s: ", again.stderr)
    assert [line for line in again.stdout.splitlines() if "| 1 |" in line] == rows
