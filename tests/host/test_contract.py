"""The contract with ms-swift: each name is renamed in a copy, and the plugin says so and stops."""

import asyncio
import logging
import runpy
import sys
import time
from pathlib import Path

import pytest

from swift_thyme.core.errors import HostError
from swift_thyme.host import contract
from swift_thyme.host.contract import find_missing, host_version, is_tested, require
from swift_thyme.host.contract_table import JOB_GROUPS, USES, Group, Piece, Use
from swift_thyme.inference.model import ModelSettings, open_engine
from tests.conftest import ROOT, TINY_MODEL, python_program, run_program
from tests.host.hosts import HostCopy, host, host_files

__all__ = ["host", "host_files"]

pytestmark = pytest.mark.skipif(
    contract.package_folder("swift") is None, reason="ms-swift is not installed"
)

PLUGINS = {
    Group.REWARDS: "rewards_only.py",
    Group.LOSS_SCALE: "sft_only.py",
    Group.TESTBED: "testbed.py",
}
PIECES = [(use, piece) for use in USES for piece in use.pieces]
OWNERS = sorted({(use.group.name, use.module, use.owner) for use in USES if use.owner})


def start(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what asks for a group of names: load a plugin as ms-swift does, or open an engine."""
    if group is Group.INFERENCE:
        settings = ModelSettings(model=str(TINY_MODEL), engine="transformers")
        asyncio.run(open_engine(settings).__aenter__())
        return
    folder = ROOT / "plugin"
    monkeypatch.syspath_prepend(str(folder))
    runpy.run_path(str(folder / PLUGINS.get(group, "agent_rm.py")))


def line_of(group: Group, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the line with which the plugin stops."""
    with pytest.raises(HostError) as caught:
        start(group, monkeypatch)
    line = str(caught.value)
    assert "\n" not in line
    assert group.value in line or group in JOB_GROUPS
    assert "tested with ms-swift 4.6.x" in line
    assert "pip install 'ms-swift>=4.6,<4.7'" in line
    return line


def test_the_installed_ms_swift_has_every_name() -> None:
    assert find_missing(Group) == {group: [] for group in Group}


def test_so_has_the_copy(host: HostCopy) -> None:
    assert contract.package_folder("swift") == host.folder / "swift"
    assert find_missing(Group) == {group: [] for group in Group}


@pytest.mark.parametrize(("use", "piece"), PIECES, ids=[str(piece) for _, piece in PIECES])
def test_a_renamed_name_stops_the_plugin_with_a_line_that_names_it(
    host: HostCopy, monkeypatch: pytest.MonkeyPatch, use: Use, piece: Piece
) -> None:
    with host.renamed(piece.module, piece.name):
        assert piece in find_missing([use.group])[use.group]
        line = line_of(use.group, monkeypatch)
    assert piece.module in line
    assert piece.name in line


@pytest.mark.parametrize(("group", "module", "owner"), OWNERS)
def test_a_renamed_class_or_function_does_too(
    host: HostCopy, monkeypatch: pytest.MonkeyPatch, group: str, module: str, owner: str
) -> None:
    with host.renamed(module, owner.rpartition(".")[2]):
        line = line_of(Group[group], monkeypatch)
    assert module in line
    assert owner.rpartition(".")[2] in line


@pytest.mark.parametrize("module", sorted({use.module for use in USES}))
def test_a_module_that_is_gone_does_too(
    host: HostCopy, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    group = next(use.group for use in USES if use.module == module)
    with host.changed(module, None):
        assert module in line_of(group, monkeypatch)


def test_the_version_that_was_found_is_in_the_line(
    host: HostCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        host.changed("swift.version", "__version__ = '5.1.0.dev0'\n"),
        host.renamed("swift.rlhf_trainers.grpo_trainer", "_compute_rewards_per_func"),
    ):
        line = line_of(Group.REWARDS, monkeypatch)
    assert line.startswith(
        "ms-swift 5.1.0.dev0 lacks the parameter self of swift.rlhf_trainers.grpo_trainer."
        "GRPOTrainer._compute_rewards_per_func and 2 more, which swift_thyme needs for the rewards;"
    )


def test_a_job_with_the_rewards_alone_does_not_need_the_scheduler(host: HostCopy) -> None:
    with host.renamed("swift.rollout.multi_turn", "prepare_response_continuation"):
        require(Group.REWARDS)
        require(Group.FLAG, Group.LOSS_SCALE)
        with pytest.raises(HostError, match="multi-turn rollouts"):
            require(*JOB_GROUPS)


@pytest.mark.parametrize(
    ("version", "warned"), [("4.6.0", False), ("4.6.12", False), ("4.60.0", True), ("4.7.0", True)]
)
def test_a_version_that_was_not_tested_is_one_warning_where_nothing_is_missing(
    host: HostCopy, caplog: pytest.LogCaptureFixture, version: str, warned: bool
) -> None:
    contract._warn.cache_clear()
    with (
        caplog.at_level(logging.WARNING),
        host.changed("swift.version", f"__version__ = '{version}'\n"),
    ):
        require(Group.REWARDS)
        require(Group.TESTBED)
        assert host_version() == version
    lines = [record.getMessage() for record in caplog.records]
    assert is_tested(version) is not warned
    assert len(lines) == warned
    assert all(f"ms-swift {version}:" in line and "4.6.x" in line for line in lines)


def test_without_a_version_the_names_decide(host: HostCopy) -> None:
    with host.changed("swift.version", None):
        assert host_version() is None
        require(Group.REWARDS)


def test_the_check_takes_milliseconds(host: HostCopy) -> None:
    seconds = []
    for _ in range(5):
        before = time.process_time()
        require(*JOB_GROUPS)
        seconds.append(time.process_time() - before)
    assert min(seconds) < 0.05


def test_the_check_imports_nothing() -> None:
    program = (
        "import sys; from swift_thyme.host.contract import require\n"
        "from swift_thyme.host.contract_table import Group\n"
        "require(*Group)\n"
        "print({'swift', 'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules))"
    )
    run = run_program(python_program("-c", program))
    assert run.stdout.strip() == "set()", run.stderr


def test_without_ms_swift_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "swift", raising=False)
    with pytest.raises(HostError, match="not installed: pip install 'ms-swift"):
        require(Group.REWARDS)
