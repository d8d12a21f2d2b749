"""The commands of the pages, and what the pages say about running them.

A comment alone on the line above a block says what is done with it; CONTRIBUTING.md has the forms.
A block without one is run as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

SHELL = {"bash", "sh", "shell", "console"}
PYTHON = {"python", "py"}
PROGRAMS = {
    *("bash", "curl", "docker", "export", "git", "megatron", "pip", "pytest", "python"),
    *("ruff", "sh", "source", "swift", "thyme", "torchrun", "uv", "vllm"),
}
"""First words of the commands in blocks that do not say their language."""


class Treatment(Enum):
    """What is done with a block or a command."""

    RUN = "run"
    NOT_RUN = "not run"
    """The comment gives the reason."""
    RUN_BY = "run by"
    """The comment names the test that runs the same."""
    FILE = "file"
    """It is the file of that name, in the folder in which the page's commands run."""
    SERVER = "server"
    """It runs until the next block of the page has run."""


class Command(NamedTuple):
    """One command, or one Python program, of a block."""

    text: str
    treatment: Treatment
    word: str
    """Reason or test; empty where there is none."""


RULES = (
    (
        r"pip install |git clone |source |bash scripts/(setup|quickstart|test)\.sh",
        Treatment.NOT_RUN,
        "downloads or runs everything; continuous integration begins with it",
    ),
    (
        r"(.*\s)?(--model |MODEL=)(Qwen/|MODEL\b)",
        Treatment.NOT_RUN,
        "needs the weights of a real model, and GPUs",
    ),
    (
        r".*(\.\.\.|\b(MODEL|OWNER|FOLDER|DIR|PATH|YOUR_JOB)\b)",
        Treatment.NOT_RUN,
        "a form: its dots and capitals stand for names of the reader's",
    ),
    (
        r"thyme ask --model swift_thyme/testbed/model --image ",
        Treatment.RUN_BY,
        "tests/e2e/test_inference.py::test_ask_shows_code_result_and_answer_and_keeps_them",
    ),
)
"""How commands begin that need no comment on any page: what is done with them, and why."""

_MARK = re.compile(r"<!--\s*(not run|run by|file|server)\b:?\s*(.*?)\s*-->")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})\s*(\w*)")
_VARIABLE = re.compile(r"^(?:[A-Z_][A-Z0-9_]*=(?:\"[^\"]*\"|'[^']*'|\S*)\s+)+")


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code of a page."""

    page: str
    """Path of the page from the root."""
    line: int
    """Of its first line of code, from 1."""
    language: str
    """`bash`, `python`, or what else the page says; empty where it says nothing."""
    text: str
    treatment: Treatment
    word: str
    """Reason, test or file name; empty where there is none."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """The commands: each line of a shell with what continues it, or the whole program."""
        return [Command(text, *self._treatment_of(text)) for text in self.lines]

    @property
    def lines(self) -> list[str]:
        """The texts of the commands."""
        if self.language in PYTHON:
            return [self.text]
        joined = re.sub(r"\\\n\s*", "", self.text)
        lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    def _treatment_of(self, text: str) -> tuple[Treatment, str]:
        if self.treatment is Treatment.RUN:
            for pattern, treatment, word in RULES:
                if re.match(pattern, text):
                    return treatment, word
        return self.treatment, self.word


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page that hold commands, and those that are files."""
    name = str(page.relative_to(ROOT))
    return [block for block in _blocks(name, page.read_text(encoding="utf-8")) if _counts(block)]


def _counts(block: Block) -> bool:
    if block.treatment is not Treatment.RUN or block.language in SHELL | PYTHON:
        return True
    first = _VARIABLE.sub("", block.text.lstrip()).split(maxsplit=1)
    return not block.language and bool(first) and first[0] in PROGRAMS


def _blocks(page: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    mark: tuple[Treatment, str] = (Treatment.RUN, "")
    at = 0
    while at < len(lines):
        line = lines[at]
        fence = _FENCE.match(line)
        if fence:
            end = at + 1
            while end < len(lines) and not lines[end].strip().startswith(fence[1]):
                end += 1
            indent = len(line) - len(line.lstrip())
            body = [
                inner[min(indent, len(inner) - len(inner.lstrip())) :]
                for inner in lines[at + 1 : end]
            ]
            yield Block(page, at + 2, fence[2], "\n".join(body), *mark)
            mark, at = (Treatment.RUN, ""), end + 1
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            body = [inner[4:] for inner in lines[at:end]]
            yield Block(page, at + 1, "", "\n".join(body).rstrip(), *mark)
            mark, at = (Treatment.RUN, ""), end
        else:
            found = _MARK.fullmatch(line.strip())
            if found:
                mark = (Treatment(found[1]), found[2])
            elif line.strip():
                mark = (Treatment.RUN, "")
            at += 1
