"""Figures of the plan of the house: how the package hangs together, and what is spelled where.

usage: python scripts/house_figures.py [FOLDER] [--list]

FOLDER is a checkout of any commit (default: this one); --list adds the places behind each figure.
All figures are read off the syntax trees of ``swift_thyme/**/*.py``. A place is a line.

* Circles: groups of modules (packages) that import each other, directly or through others. Imports
  in functions and under TYPE_CHECKING count. ``from a import b`` leads to the module ``a.b``, or to
  ``a`` where ``b`` is a name in it. Modules right in ``swift_thyme`` are the package "(root)".
* Arrows: pairs of a package and another one that it imports.
* Tags: lines that look for a tag of the protocol (think, code, answer, sandbox_output) outside the
  one reading (protocol.py, core/reading.py). They call ``re.*`` or a searching method of str, or
  compare, with a literal that holds a tag or a name that stands for one. Not counted: writing a tag
  into a text, and comparing a tag that the reading found (``tag.text``, ``piece.tag``).
* Images: lines with ``Image.open``, ``b64decode``, ``imdecode`` or ``alpha_composite``, with the
  first bytes of a file format, that look for the head of a data URI, or name a mode with alpha.
* Environment: lines that use ``os.environ`` or ``os.getenv``, except those that write to it.
* ms-swift: lines that import ``swift``, in functions too.
* Private names: lines with an attribute, also by ``getattr``, that starts with one underscore and
  that nothing in this project defines. Those of the standard library's modules are left out.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

LONG, READING = 450, {"protocol.py", "core/protocol.py", "core/reading.py"}
TAG = re.compile(r"<[\\/?(:]*(?:think|code|answer|sandbox_output)\b", re.IGNORECASE)
LONGEST_PATTERN = 120  # characters; a longer literal is prose that mentions a tag
SEARCHES = set(
    "count endswith find index partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit split startswith compile search match fullmatch sub subn findall finditer".split()
)
ASKS_THE_READING = re.compile(r"\b(?:tag|piece|t)\.(?:text|tag)\b|\bfind_tags\(")
HEADS = ("startswith", "partition", "removeprefix")
DECODERS = ("Image.open", "b64decode", "imdecode", "alpha_composite")
FIRST_BYTES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"WEBP", b"BM", b"II*", b"MM\0*")
WITH_ALPHA, WRITES = {"RGBA", "LA", "PA"}, {"update", "clear", "pop", "setdefault"}

Graph = Mapping[str, set[str]]


class Module(NamedTuple):
    path: str  # relative to the package
    name: str  # dotted, without the package's name
    tree: ast.Module
    lines: list[str]


class Figure(NamedTuple):
    name: str
    number: int
    spread: int  # modules (or packages) that it is spread over
    details: list[str]


def read_modules(checkout: Path) -> list[Module]:
    package, found = checkout / "swift_thyme", []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        name = ".".join(path.with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        text = file.read_text(encoding="utf-8")
        found.append(Module(path.as_posix(), name, ast.parse(text), text.splitlines()))
    return found


def imports(module: Module) -> Iterator[tuple[str, int]]:  # dotted names and lines
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def import_graph(modules: list[Module]) -> Graph:
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = graph.setdefault(module.name, set())
        for name, _ in imports(module):
            root, _, inner = name.partition(".")
            target = inner if inner in known else inner.rpartition(".")[0]
            if root == "swift_thyme" and target in known - {"", module.name}:
                targets.add(target)
    return graph


def package_graph(modules: list[Module], graph: Graph) -> Graph:
    package = {m.name: m.path.partition("/")[0] if "/" in m.path else "(root)" for m in modules}
    arrows: dict[str, set[str]] = {}
    for name, targets in graph.items():
        others = {package[target] for target in targets} - {package[name]}
        arrows.setdefault(package[name], set()).update(others)
    return arrows


def circles(graph: Graph) -> list[list[str]]:
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = reach.setdefault(start, set()), list(graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo.extend(graph[node])
    groups = {tuple(sorted(n for n in reach[node] if node in reach[n])) for node in graph}
    return [list(group) for group in sorted(groups) if group]


def holds_tag(node: ast.AST, names: set[str]) -> bool:
    for part in ast.walk(node):
        text = part.value if isinstance(part, ast.Constant) else None
        if isinstance(text, str) and len(text) <= LONGEST_PATTERN and TAG.search(text):
            return True
        if isinstance(part, ast.Name) and part.id in names:
            return True
    return False


def tag_names(module: Module, known: set[str]) -> set[str]:
    names = set(known)
    plain = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Set, ast.IfExp)
    for _ in range(3):  # a name may stand for a name
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, plain):
                if holds_tag(node.value, names):
                    parts = [part for target in node.targets for part in ast.walk(target)]
                    names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return names


def tag_lines(module: Module, known: set[str]) -> Iterator[int]:
    names = tag_names(module, known)
    for node in ast.walk(module.tree) if module.path not in READING else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in SEARCHES and any(holds_tag(arg, names) for arg in node.args[:1]):
                yield node.lineno
        elif isinstance(node, ast.Compare):
            found = any(holds_tag(part, names) for part in (node.left, *node.comparators))
            if found and not ASKS_THE_READING.search(ast.unparse(node)):
                yield node.lineno


def image_lines(module: Module) -> Iterator[int]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            name, head = ast.unparse(node.func), ast.unparse(node.args[0]) if node.args else ""
            if name.endswith(DECODERS) or (name.endswith(HEADS) and head.startswith("'data:")):
                yield node.lineno
        elif isinstance(node, ast.Constant):
            value = node.value
            if value in WITH_ALPHA or (isinstance(value, bytes) and value.startswith(FIRST_BYTES)):
                yield node.lineno


def environment_lines(module: Module) -> Iterator[int]:
    written: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            written.add(id(node.value))
        elif isinstance(node, ast.Attribute) and node.attr in WRITES:
            written.add(id(node.value))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and id(node) not in written:
            if ast.unparse(node) in {"os.environ", "os.getenv"}:
                yield node.lineno


def swift_lines(module: Module) -> Iterator[int]:
    yield from (line for name, line in imports(module) if name.partition(".")[0] == "swift")


def own_private_names(modules: list[Module]) -> set[str]:
    names = {"_replace", "_asdict", "_fields", "_make"}
    for node in (node for module in modules for node in ast.walk(module.tree)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in {"self", "cls"}:
                names.add(node.attr)
    return names


def private_lines(module: Module, own: set[str]) -> Iterator[int]:
    standard = {name for name, _ in imports(module) if name in sys.stdlib_module_names}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            name, of, line = node.attr, ast.unparse(node.value), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr"}:
            name, of, line = str(getattr(node.args[1], "value", "")), "", node.lineno
        else:
            continue
        if re.match(r"_[^_]", name) and name not in own and of not in standard:
            yield line


def figures(checkout: Path) -> list[Figure]:
    modules = read_modules(checkout)
    graph = import_graph(modules)
    arrows = package_graph(modules, graph)
    pairs = [f"{source} -> {to}" for source in sorted(arrows) for to in sorted(arrows[source])]
    long = [f"{m.path}: {len(m.lines)} lines" for m in modules if len(m.lines) > LONG]
    tags = set[str]().union(*(tag_names(m, set()) for m in modules if m.path in READING))
    own = own_private_names(modules)

    def groups(name: str, found: list[list[str]]) -> Figure:
        return Figure(name, len(found), sum(map(len, found)), [" <-> ".join(g) for g in found])

    def places(name: str, lines: Callable[[Module], Iterable[int]]) -> Figure:
        found = [(m, line) for m in modules for line in sorted(set(lines(m)))]
        details = [f"{m.path}:{line}: {m.lines[line - 1].strip()[:90]}" for m, line in found]
        return Figure(name, len(found), len({m.path for m, _ in found}), details)

    return [
        Figure(f"files over {LONG} lines", len(long), len(long), long),
        groups("import circles between modules", circles(graph)),
        groups("import circles between packages", circles(arrows)),
        Figure("arrows between packages", len(pairs), len(arrows), pairs),
        places("places that match tags", lambda m: tag_lines(m, tags)),
        places("places that decode images", image_lines),
        places("places that read the environment", environment_lines),
        places("places that import ms-swift", swift_lines),
        places("places with private names of others", lambda m: private_lines(m, own)),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="figures of the plan of the house")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--list", action="store_true", help="name the places behind each figure")
    arguments = parser.parse_args(argv)
    if not (arguments.folder / "swift_thyme").is_dir():
        parser.error(f"{arguments.folder} is no checkout: it holds no folder swift_thyme")
    print(f"{'figure':38}{'number':>7}{'in':>5}  (modules; packages for the arrows)")
    for figure in figures(arguments.folder):
        print(f"{figure.name:38}{figure.number:>7}{figure.spread:>5}")
        if arguments.list:
            print("".join(f"    {detail}\n" for detail in figure.details), end="")


if __name__ == "__main__":
    main()
