"""Real ``swift`` commands with an ms-swift in which a name has moved: they stop with the line."""

import re
import shutil
from pathlib import Path

import pytest

from swift_thyme.host.compiled_names import package_folder
from tests.conftest import ROOT, TINY_MODEL, python_program, run_program

pytestmark = [pytest.mark.slow, pytest.mark.ci]

LEFT_OUT = shutil.ignore_patterns("__pycache__", "megatron", "ray", "ui")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ms-swift that Python finds before the installed one."""
    source = package_folder("swift")
    if source is None:
        pytest.skip("ms-swift is not installed")
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(source, folder / "swift", ignore=LEFT_OUT)
    return folder


def rename_everywhere(folder: Path, name: str) -> None:
    """Rename a name in the whole copy, as a new version would: ms-swift itself goes on working."""
    pattern = re.compile(rf"\b{name}\b")
    for path in folder.rglob("*.py"):
        text = path.read_text("utf-8")
        changed = pattern.sub(f"{name}_of_later", text)
        if changed != text:
            path.write_text(changed, "utf-8")


@pytest.mark.parametrize(
    ("command", "plugin", "name"),
    [
        ("rlhf", "agent_rm.py", "_log_rollout"),
        ("rlhf", "rewards_only.py", "_compute_rewards_per_func"),
        ("sft", "sft_only.py", "_import_external_plugins"),
    ],
)
def test_a_name_that_moved_ends_the_job_with_one_line(
    installed: Path, tmp_path: Path, command: str, plugin: str, name: str
) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(installed, packages)
    rename_everywhere(packages, name)
    argv = ["-m", "swift.cli.main", command, "--model", str(TINY_MODEL)]
    argv += ["--model_type", "qwen2_5_vl", "--dataset", "unused.jsonl", "--use_cpu", "true"]
    argv += ["--external_plugins", f"plugin/{plugin}", "--output_dir", str(tmp_path / "out")]
    if command == "rlhf":
        argv += ["--rlhf_type", "grpo"]
    if plugin != "rewards_only.py":
        argv += ["--O3", "true"]
    job = run_program(python_program(*argv), PYTHONPATH=f"{packages}:{ROOT}")
    assert job.returncode != 0
    lines = [line for line in job.stderr.splitlines() if "HostError: " in line]
    assert len(lines) == 1, job.stderr[-3000:]
    assert re.search(rf"HostError: ms-swift \S+ lacks .*\b{name}\b.*; tested with .*4\.6", lines[0])
    assert not (tmp_path / "out").exists()
