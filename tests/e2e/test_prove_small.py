"""The small proof with a few steps and items: it prints its tables, and keeps what is done."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, run_program


@pytest.mark.ci
def test_it_prints_its_tables_and_a_second_call_does_nothing_again(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "scripts" / "prove_small.sh"), str(tmp_path)]
    first = run_program(command, timeout_s=580, QUICK="1")
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("*.log"))
    assert first.returncode == 0, first.stdout + first.stderr + logs
    lines = [line for line in first.stdout.splitlines() if line.startswith("| ")]
    rows = [line.split(" | ") for line in lines if not line.startswith("| ---")]
    # Sampled, greedy, and withheld; each has a head and one row for each arm.
    assert [row[0] for row in rows] == [
        *["| arm", "| no tools", "| SFT", "| SFT + RL"] * 2,
        *["| arm", "| SFT"],
    ]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}
    again = run_program(command, QUICK="1")
    assert again.returncode == 0, again.stderr
    tables = [run.stdout[run.stdout.index("\n\n") :] for run in (first, again)]
    assert tables[0] == tables[1]
    assert made == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if not p.is_dir()}
