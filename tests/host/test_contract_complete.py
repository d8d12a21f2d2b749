"""Nothing of ms-swift is used that the contract does not list, as far as the source tells."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from swift_thyme.host.contract_table import DOCUMENTED, USES, Kind
from tests.conftest import ROOT

PACKAGE = ROOT / "swift_thyme"
HOST = PACKAGE / "host"
SOURCES = sorted(
    [
        *HOST.glob("*.py"),
        *(ROOT / "plugin").glob("*.py"),
        *(PACKAGE / "plugins").glob("*.py"),
        *(PACKAGE / "inference").glob("*.py"),
    ]
)
TABLE = {
    *("contract.py", "contract_entries.py", "contract_rollout.py"),
    *("contract_table.py", "contract_templates.py"),
}

SUBJECTS = {
    "arguments",
    "choice",
    "deploy_args",
    "host",
    "infer_engine",
    "infer_request",
    "inputs",
    "model_info",
    "request",
    "response_choice",
    "sample",
    "template",
    "template_meta",
    "trainer",
    "trainer_class",
    "vllm_client",
}
"""Variables and attributes of this package that hold objects of ms-swift."""
OTHERS = {
    "accelerator": "transformers' trainer",
    "args": "transformers' trainer",
    "callback_handler": "transformers' trainer",
    "model": "transformers' trainer",
    "output_dir": "transformers' training arguments",
    "train_dataset": "transformers' trainer",
    "O3": "ours, on the argument object",
    "thyme_sampling": "ours, on the argument object",
    "trainer": "documented: a callback's trainer",
    "image_processor": "transformers' processor",
}
"""Names on such objects that are not ms-swift's own, or that it documents."""
NOT_OF_SWIFT = {
    "host/reward_functions.py": {"sample"},
    "inference/endpoint.py": {"choice", "request"},
    "inference/vllm_engine.py": {"choice"},
}
"""Files in which some of those variables hold something else."""

ALSO_OF_SWIFT = {"host/cpu_worker.py": {"rollout"}}

MODULES = {use.module for use in USES}
EXPORTED = {
    f"{use.module}.{name}"
    for use in USES
    if use.kind is Kind.DEFINED and not use.owner
    for name in use.names.split()
}
NAMES = {name for use in USES for name in [*use.names.split(), *use.owner.split(".")]}
PARAMETERS = {
    (use.owner.removesuffix(".__init__").rpartition(".")[2], name)
    for use in USES
    if use.kind is Kind.PARAMETER
    for name in use.names.split()
} | {
    ("get_processor", "torch_dtype"),  # through its **kwargs
    ("QwenTemplateMeta", "template_cls"),
    ("QwenTemplateMeta", "default_system"),
}


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


class Import(NamedTuple):
    """A name that a file imports of ms-swift."""

    name: str
    """Dotted."""
    alias: str
    """What it is called in the file."""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports_of_swift(tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "swift":
                    yield Import(alias.name, alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "swift":
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", alias.asname or alias.name)


def last_name(node: ast.expr) -> str:
    """Return the name of a variable or attribute, without underscores before it."""
    if isinstance(node, ast.Name):
        return node.id.lstrip("_")
    return node.attr.lstrip("_") if isinstance(node, ast.Attribute) else ""


def attributes_of(tree: ast.Module, subjects: set[str]) -> Iterator[tuple[str, int]]:
    """Yield the names that a file takes from objects of ms-swift, and their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and last_name(node.value) in subjects:
            yield node.attr, node.lineno
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "hasattr", "setattr"}
            and last_name(node.args[0]) in subjects
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value), node.lineno


def own_names(tree: ast.Module) -> set[str]:
    """Return what the classes of a file define themselves."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def inherited_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield what classes made from ms-swift's take from `self` and do not define themselves."""
    bases, own = {item.alias for item in imports_of_swift(tree)}, own_names(tree)
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        if not any(last_name(base) in bases or _root(base) in bases for base in kind.bases):
            continue
        for node in ast.walk(kind):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, (ast.Name, ast.Call))
                and (last_name(node.value) == "self" or _is_super(node.value))
                and (node.attr not in own or _is_super(node.value))
                and not node.attr.startswith("__")
            ):
                yield node.attr, node.lineno


def _root(node: ast.expr) -> str:
    return (
        node.value.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        else ""
    )


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) == "super"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_import_of_ms_swift_is_documented_or_in_the_table(path: Path) -> None:
    found = {item.name for item in imports_of_swift(tree_of(path))}
    assert not found - DOCUMENTED - EXPORTED - MODULES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_text_that_names_a_module_of_ms_swift_names_one_of_the_table(path: Path) -> None:
    if path.name in TABLE:
        return
    found = {
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"swift(\.\w+)+", node.value)
    }
    assert not found - EXPORTED - MODULES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_name_on_an_object_of_ms_swift_is_in_the_table(path: Path) -> None:
    subjects = SUBJECTS - NOT_OF_SWIFT.get(named(path), set())
    subjects |= ALSO_OF_SWIFT.get(named(path), set())
    tree = tree_of(path)
    unknown = {
        f"{name} in line {line}"
        for name, line in [*attributes_of(tree, subjects), *inherited_names(tree)]
        if name not in NAMES and name not in OTHERS
    }
    assert not unknown


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_argument_for_a_function_of_ms_swift_is_in_the_table(path: Path) -> None:
    tree = tree_of(path)
    called = {item.alias for item in imports_of_swift(tree)}
    unknown = {
        f"{keyword.arg} of {node.func.id} in line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in called
        for keyword in node.keywords
        if keyword.arg is not None and (node.func.id, keyword.arg) not in PARAMETERS
    }
    assert not unknown


def test_every_row_of_the_table_is_used_where_it_says() -> None:
    for use in USES:
        places = use.used_in.split()
        texts = [(HOST / f"{place}.py").read_text("utf-8") for place in places]
        for text, place in zip(texts, places, strict=True):
            words = set(re.findall(r"\w+", text))
            names = {*use.names.split(), *use.owner.split("."), *use.module.split(".")}
            assert words & names, f"{use.names}: nothing of it is in {place}.py"
    assert all(use.why for use in USES)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("trainer._secret", {"_secret"}),
        ("self._trainer.other", {"other"}),
        ("getattr(arguments, 'gone', None)", {"gone"}),
        ("setattr(self._engine.template, '_x', 1)", {"_x"}),
        ("something._else", set()),
    ],
)
def test_the_search_finds_names(code: str, found: set[str]) -> None:
    assert {name for name, _ in attributes_of(ast.parse(code), SUBJECTS)} == found


def test_the_search_finds_inherited_names_and_imports() -> None:
    tree = ast.parse(
        "from swift.x import Base as Host\n"
        "class A(Host):\n"
        "    def a(self):\n"
        "        self.mine = self.theirs\n"
        "        super().hook()\n"
    )
    assert {name for name, _ in inherited_names(tree)} == {"theirs", "hook"}
    assert list(imports_of_swift(tree)) == [Import("swift.x.Base", "Host")]
