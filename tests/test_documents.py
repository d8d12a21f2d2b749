"""The documents name files, modules and packages that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_architecture import ARROWS

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PACKAGE = ROOT / "swift_thyme"
TOP = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} | set(ARROWS)

OF_OTHERS = {
    "rollout/multi_turn.py",  # ms-swift
    "run_thyme.py",  # a program that the page shows
    "FILE.py",
    "report.txt",  # what a command writes
    "my_prompt.txt",  # the same
    "prompt_0_to_1000.txt",  # the same
    "images/",
    "pictures/",
    "output/",
}
"""Paths in the pages that are not of this repository."""

FILE = re.compile(r"(?<![\w/.{}$*-])[\w./*-]*\.(?:py|sh|js|css|toml|lock|example|txt|md)(?![\w/])")
FOLDER = re.compile(r"(?<![\w/.{}$*-])[\w.-]+(?:/[\w.-]+)*/(?![\w*])")
MODULE = re.compile(r"\bswift_thyme(?:\.\w+)+")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def code_of(page: Path) -> Iterator[str]:
    for span in CODE.findall(page.read_text(encoding="utf-8")):
        yield span.strip("`")


def paths_of(page: Path) -> set[str]:
    """Return what looks like a path of this repository in the code of a page."""
    found = set()
    made = set(re.findall(r"<!-- file: (\S+) -->", page.read_text(encoding="utf-8")))
    for span in code_of(page):
        found |= {path for path in FILE.findall(span) if not path.startswith(("/", "."))}
        found |= {path for path in FOLDER.findall(span) if path.partition("/")[0] in TOP}
    return {path for path in found - OF_OTHERS - made if not path.startswith("output/")}


def exists(path: str) -> bool:
    """Tell whether a path exists: from the root, the package, or a folder that pages speak of.

    A name without a folder may lie anywhere in the package.
    """
    starts = (ROOT, PACKAGE, ROOT / "scripts", ROOT / "plugin", ROOT / "docs")
    if any(list(start.glob(path.rstrip("/"))) for start in starts):
        return True
    return "/" not in path and next(PACKAGE.rglob(path), None) is not None


def defines(name: str) -> bool:
    """Tell whether a dotted name leads to a module, or to something that its text defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            rest = parts[length:]
            return not rest or re.search(rf"\b{rest[0]}\b", text) is not None
    return False


def test_there_are_pages() -> None:
    assert {"architecture.md", "README.md", "CONTRIBUTING.md"} <= {page.name for page in PAGES}
    assert len(paths_of(ROOT / "docs" / "architecture.md")) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_in_a_page_exists(page: Path) -> None:
    assert sorted(path for path in paths_of(page) if not exists(path)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_in_a_page_exists(page: Path) -> None:
    names = {name for span in code_of(page) for name in MODULE.findall(span)}
    assert sorted(name for name in names if not defines(name)) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_in_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text))
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for link in links:
        target, _, anchor = link.partition("#")
        if not target:
            assert anchor in headings, link
        elif "://" not in target:
            assert (page.parent / target).exists(), link


def test_the_picture_of_the_packages_shows_their_arrows() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.partition("## Packages and their arrows")[2].partition("```mermaid")[2]
    drawn: dict[str, set[str]] = {}
    for left, right in re.findall(r"^\s+([\w &]+) --> (\w+)$", picture.partition("```")[0], re.M):
        for source in left.split(" & "):
            drawn.setdefault(source, set()).add(right)

    def reached(source: str) -> set[str]:
        return drawn.get(source, set()).union(*map(reached, drawn.get(source, ())))

    for source, targets in ARROWS.items():
        assert drawn.get(source, set()) <= targets, f"{source}: drawn, but not allowed"
        assert targets <= reached(source), f"{source}: allowed, but not drawn"
