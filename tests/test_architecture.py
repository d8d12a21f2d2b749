"""Which package may import which; ``docs/architecture.md`` draws the same arrows."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, python_program, run_program

PACKAGE = ROOT / "swift_thyme"

ARROWS = {
    "core": set(),
    "answers": {"core"},
    "sampling": {"core"},
    "sandbox": {"core"},
    "testbed": {"core"},
    "rewards": {"answers", "core"},
    "host": {"core", "plan", "rewards", "sampling", "sandbox", "testbed"},
    "plugins": {"host"},
    "plan": {"core"},
    "recipe": {"core"},
    "inference": {"core", "host", "sampling", "sandbox", "testbed"},
    "web": set(),
    "sandbox_server": {"core", "sandbox", "web"},
    "serve": {"core", "inference", "sampling", "sandbox", "web"},
    "evaluation": {"answers", "core", "data", "inference", "rewards", "sandbox", "view"},
    "data": {"core", "sandbox"},
    "view": {"core"},
    "doctor": {"core", "host", "rewards", "sampling", "sandbox"},
}
"""Package to the packages that it may import. ``commands`` is the top: it may import them all, and
nothing imports it."""

HOST_BLIND = {"inference", "sandbox_server", "serve", "web", "evaluation", "data", "view"}
"""Packages that must do without ms-swift's training side."""
TRAINING_SIDE = {
    *("callback", "flag", "kept_rollouts", "missing_rewards", "register", "rollout_records"),
    *("scheduler", "server_rollout", "shown_rollouts", "continuous_rollout"),
}

ENGINE_ADAPTERS = {
    "inference/hf_engine.py",
    "sampling/logits.py",
    "sampling/vllm_hook.py",
}
"""Modules outside ``host`` that load torch, transformers or vLLM when they are imported."""
ENGINES = {"accelerate", "torch", "transformers", "vllm"}


class Import(NamedTuple):
    """One import of a module."""

    name: str
    """What is imported, dotted."""
    at_top: bool
    """Whether it happens when the module is loaded."""


def imports_of(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, id(node) in top)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", id(node) in top)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    """Return the name of the package that a file belongs to; empty for the root."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def internal(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a module imports of this project, without the project's own name."""
    for item in imports_of(path):
        parts = item.name.split(".")
        if parts[0] == "swift_thyme" and len(parts) > 1:
            yield tuple(parts[1:])


@pytest.mark.parametrize("path", modules(), ids=named)
def test_arrows_between_packages_point_down(path: Path) -> None:
    package = package_of(path)
    if package in ("", "commands"):
        return
    allowed = ARROWS[package] | {package}
    targets = {parts[0] for parts in internal(path)} - {"__version__"}
    assert targets <= allowed, f"{named(path)} may not import {sorted(targets - allowed)}"


def test_every_package_has_its_arrows() -> None:
    packages = {package_of(path) for path in modules()} - {"", "commands"}
    assert packages == set(ARROWS)


def test_there_is_no_circle_between_packages() -> None:
    TopologicalSorter(ARROWS).prepare()


def test_there_is_no_circle_between_modules() -> None:
    """Imports inside functions and for type checking count too."""
    known = {named(path).removesuffix(".py").replace("/", ".") for path in modules()}
    known |= {name.removesuffix(".__init__") for name in known}
    graph: dict[str, set[str]] = {}
    for path in modules():
        name = named(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        targets = set()
        for parts in internal(path):
            found = ".".join(parts) if ".".join(parts) in known else ".".join(parts[:-1])
            if found in known and found != name:
                targets.add(found)
        graph[name] = targets
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", modules(), ids=named)
def test_only_the_wing_for_ms_swift_imports_it(path: Path) -> None:
    if package_of(path) != "host":
        roots = {item.name.partition(".")[0] for item in imports_of(path)}
        assert "swift" not in roots


@pytest.mark.parametrize("path", modules(), ids=named)
def test_only_adapters_load_an_engine_when_they_are_imported(path: Path) -> None:
    if package_of(path) != "host" and named(path) not in ENGINE_ADAPTERS:
        at_top = {item.name.partition(".")[0] for item in imports_of(path) if item.at_top}
        assert not at_top & ENGINES


@pytest.mark.parametrize("path", modules(), ids=named)
def test_nothing_but_training_knows_ms_swifts_training_side(path: Path) -> None:
    if package_of(path) in HOST_BLIND:
        used = {parts[1] for parts in internal(path) if parts[0] == "host" and len(parts) > 1}
        assert not used & TRAINING_SIDE


@pytest.mark.parametrize(
    "module",
    [
        "swift_thyme",
        "swift_thyme.answers",
        "swift_thyme.core.trajectory",
        "swift_thyme.rewards",
        "swift_thyme.sandbox",
    ],
)
def test_a_part_that_is_used_alone_stays_light(module: str) -> None:
    heavy = sorted(ENGINES | {"swift"})
    program = f"import sys, {module}; print(sorted(set({heavy!r}) & set(sys.modules)))"
    run = run_program(python_program("-c", program))
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("path", modules(), ids=named)
def test_a_module_holds_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
