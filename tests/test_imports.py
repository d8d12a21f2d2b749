"""Who may import what: the core of the package knows neither ms-swift nor an engine."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT, python_program, run_program

HEAVY = {"swift", "torch", "vllm", "transformers", "accelerate"}
ADAPTERS = {
    "scheduler.py",
    "sft/loss_scale.py",
    "inference/hf_engine.py",
    "metrics.py",
    "sampling/vllm_hook.py",
    "sampling/hf_hook.py",
    "sampling/logits.py",
    "rewards/orms.py",
    "testbed/cpu_worker.py",
    "testbed/pretrain.py",
    "testbed/template.py",
}
PACKAGE = ROOT / "swift_thyme"


def imported_at_module_level(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_only_adapters_import_the_host_and_the_engines(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) not in ADAPTERS:
        assert not imported_at_module_level(path) & HEAVY


@pytest.mark.parametrize("module", ["swift_thyme", "swift_thyme.sandbox", "swift_thyme.rewards"])
def test_a_part_that_is_used_alone_stays_light(module: str) -> None:
    program = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = run_program(python_program("-c", program))
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("folder", ["core", "sandbox"])
def test_the_core_does_not_reach_up_to_its_users(folder: str) -> None:
    files = {
        "core": [PACKAGE / name for name in ("protocol.py", "errors.py")],
        "sandbox": sorted((PACKAGE / "sandbox").glob("*.py")),
    }[folder]
    for path in files:
        text = path.read_text(encoding="utf-8")
        for user in ("scheduler", "trajectory", "rewards", "testbed", "o3"):
            assert f"swift_thyme.{user}" not in text, path
