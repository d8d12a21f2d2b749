"""Brackets survive: rich takes ``[word]`` for markup wherever text of ours is not plain text."""

import ast
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console

from swift_thyme.commands import messages
from swift_thyme.commands.main import app
from tests.conftest import ROOT

PACKAGE = ROOT / "swift_thyme"
MARKUP = re.compile(r"\[[a-z#/@][^\[\]]*\]")
"""What rich takes for markup."""


def sentences(path: Path) -> Iterator[str]:
    """Yield the strings of a module that rich would change, but for docstrings and patterns."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings and MARKUP.search(node.value):
                yield node.value


WITH_BRACKETS = sorted({text for path in PACKAGE.rglob("*.py") for text in sentences(path)})


def test_there_are_messages_with_brackets() -> None:
    assert sum("swift_thyme[" in text for text in WITH_BRACKETS) >= 3


@pytest.mark.parametrize("say", [messages.say, messages.note, messages.warn, messages.error])
def test_every_message_with_brackets_is_printed_whole(say, capsys) -> None:  # type: ignore[no-untyped-def]
    for text in WITH_BRACKETS:
        say(text)
        printed = capsys.readouterr()
        assert messages.plain(text) in printed.out + printed.err


def help_texts() -> Iterator[str]:
    """Yield every help text of every command and option."""

    def walk(command: object) -> Iterator[str]:
        for holder in (command, *getattr(command, "params", ())):
            yield getattr(holder, "help", None) or ""
        for child in getattr(command, "commands", {}).values():
            yield from walk(child)

    yield from walk(typer.main.get_command(app))


def test_no_help_text_holds_what_rich_would_swallow() -> None:
    texts = list(help_texts())
    assert len(texts) > 100
    assert [text for text in texts if MARKUP.search(text)] == []


def console_prints(path: Path) -> Iterator[ast.expr]:
    """Yield what a module gives to rich as a string to print, or as a cell of a table."""
    text = path.read_text(encoding="utf-8")
    if "from rich" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "print" and not any(k.arg == "markup" for k in node.keywords):
                yield from node.args


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_no_sentence_goes_to_rich_as_markup(path: Path) -> None:
    """Only figures are printed without `Text`: an f-string of them holds no bracket."""
    for value in console_prints(path):
        for part in ast.walk(value) if isinstance(value, ast.JoinedStr) else [value]:
            if isinstance(part, ast.Constant):
                assert not MARKUP.search(str(part.value)), f"{path}:{part.lineno}"
            if isinstance(part, ast.FormattedValue):
                named = ast.unparse(part.value)
                is_figure = part.format_spec is not None or named.startswith("report.")
                assert is_figure, f"{path}:{part.lineno}: {named} goes to rich as markup"


def test_rich_would_change_such_a_message() -> None:
    out = StringIO()
    Console(file=out).print("pip install 'swift_thyme[swift]'")
    assert "[swift]" not in out.getvalue()
