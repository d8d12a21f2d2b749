"""Who reads the environment: one module; and what the documentation says about it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from environment_page import PAGE

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.host.flag import O3Settings, check_model_runner
from swift_thyme.host.kept_rollouts import KeepSettings
from swift_thyme.rewards.reward_settings import RewardSettings
from swift_thyme.sampling.sampling_settings import SamplingSettings
from swift_thyme.sandbox.remote_settings import RemoteSettings
from swift_thyme.sandbox.sandbox_settings import DISABLEABLE_LAYERS, SandboxSettings
from tests.conftest import ROOT

ALLOWED = {
    "swift_thyme/core/environment.py": "the reader",
    "swift_thyme/doctor/job_command.py": "passes all on to a script",
    "swift_thyme/inference/engine_guard.py": "passes all on to a child process",
    "swift_thyme/inference/model.py": "sets what hosts read when they are imported",
    "swift_thyme/sandbox/process_environment.py": "passes a few on to a child process",
    "swift_thyme/sandbox/preload.py": "empties its own",
    "plugin/thyme_checkout.py": "adds to the import path of child processes",
    "scripts/bench_ats.py": "sets what vLLM reads when it is imported",
    "swift_thyme/commands/torchrun.py": "takes torchrun's variables away",
    "scripts/bench_rollout.py": "sets what vLLM reads when it is imported",
    "scripts/make_tiny_model.py": "passes all on to a child process",
}
"""Files that may touch the environment besides by the reader."""
PASSED_ON = {"PYTHONPATH"}
"""Variables that these files may read one by one, to pass them on with an addition."""

NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def sources() -> list[Path]:
    folders = [ROOT / "swift_thyme", ROOT / "plugin", ROOT / "scripts"]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def touches(tree: ast.AST) -> bool:
    """Tell whether a program uses ``os.environ``, ``os.getenv`` or one of their kin."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            if NAMES & {alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            return True
    return False


def read_one_by_one(tree: ast.AST) -> set[str]:
    """Return the variables whose value a program takes from ``os.environ`` by their name."""
    found = set()
    for node in ast.walk(tree):
        name: ast.expr | None = None
        if isinstance(node, ast.Call) and re.search(
            r"environb?\.(get|pop)$|getenvb?$", ast.unparse(node.func)
        ):
            name = node.args[0]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            name = node.slice if ast.unparse(node.value).endswith("environ") else None
        if isinstance(name, ast.Constant):
            found.add(str(name.value))
    return found


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_environment_is_touched_where_that_is_allowed_and_nowhere_else() -> None:
    found = {str(path.relative_to(ROOT)) for path in sources() if touches(parsed(path))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize("file", ALLOWED)
def test_those_that_may_touch_it_take_no_setting_from_it(file: str) -> None:
    assert read_one_by_one(parsed(ROOT / file)) <= PASSED_ON


@pytest.mark.parametrize(
    "program",
    [
        "import os\nx = os.environ['A']",
        "import os\ndef f():\n    return os.getenv('A')",
        "from os import environ\nx = environ.get('A', '')",
        "import os as system\nx = system.environ.get('A')",
    ],
)
def test_a_read_somewhere_else_would_be_found(program: str) -> None:
    assert touches(ast.parse(program))
    assert read_one_by_one(ast.parse(program)) == {"A"}


def literals(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (method or keyword, name) for the variables that a module reads by name."""
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg == "envvar" and isinstance(keyword.value, ast.Constant):
                yield "envvar", keyword.value.value
        by_reader = isinstance(node.func, ast.Attribute) and node.func.attr in (
            *("raw", "given", "text", "switch", "count", "number"),
        )
        if by_reader and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value
            if isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", name):
                yield "reader", name


def test_every_variable_that_is_read_by_name_is_in_the_table_and_the_table_says_where() -> None:
    found = {
        (str(path.relative_to(ROOT / "swift_thyme")), name)
        for path in sorted((ROOT / "swift_thyme").rglob("*.py"))
        for _, name in literals(path)
    }
    assert {name for _, name in found} <= set(VARIABLES)
    said = {(file, name) for name, v in VARIABLES.items() for file in v.reader.split(", ")}
    # GEN_ITER_LIMIT is the default of an option too, which its entry says under that heading.
    options = {(f, n) for f, n in found if f.startswith("commands/") and VARIABLES[n].option}
    assert found - options <= said
    by_name = {name for _, name in found}
    assert {
        name
        for name, variable in VARIABLES.items()
        if not variable.reader.startswith("scripts/") and not name.startswith("THYME_SANDBOX")
    } == by_name - {name for name in by_name if name.startswith("THYME_SANDBOX")}


def test_the_scripts_read_what_the_table_says() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        text = re.sub(r"^\s*#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        names = re.findall(r"\$\{([A-Z][A-Z0-9_]*):?[-+?]", text)
        names += re.findall(r"^\s*(?:need|.*\bswitch) ([A-Z][A-Z0-9_]*)", text, re.MULTILINE)
        for name in names:
            found.setdefault(name, set()).add(f"scripts/{path.name}")
    assert set(found) <= set(VARIABLES)
    for name, variable in VARIABLES.items():
        for reader in variable.reader.split(", "):
            if reader == "scripts/*.sh":
                assert found[name]
            elif reader.startswith("scripts/"):
                assert reader in found[name], name


def test_the_page_holds_every_variable_as_it_is_declared() -> None:
    assert PAGE.is_current(), "run python scripts/environment_page.py --write"
    text = PAGE.path.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(VARIABLES)


BAD = {
    "THYME_JUDGE_URLS": "ftp://a",
    "REWARD_API_ADDRESS": "http://a b",
    "QWEN_API_PORT": "99999",
    "THYME_JUDGE_API_KEY": "two words",
    "THYME_SANDBOX_TOKEN": "two words",
}
"""Values that cannot be used, for variables whose kind alone does not give one."""
HOMES = {
    "host/flag.py": O3Settings.from_env,
    "host/kept_rollouts.py": KeepSettings.from_env,
    "rewards/reward_settings.py": RewardSettings.from_env,
    "sampling/sampling_settings.py": SamplingSettings.from_env,
    "sandbox/remote_settings.py": RemoteSettings.from_env,
    "sandbox/sandbox_settings.py": SandboxSettings.from_env,
}
FREE_TEXT = {"THYME_JUDGE_MODEL", "THYME_SANDBOX_PRELOAD"}
"""Every value can be used."""
BY_PROCESS = {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "VLLM_USE_V2_MODEL_RUNNER"}
"""Read from the environment of the process alone."""


def home(name: str) -> str:
    """Return the file that reads a variable, the first of several."""
    return VARIABLES[name].reader.split(", ")[0]


@pytest.mark.parametrize(
    "name",
    [n for n in VARIABLES if home(n) in HOMES and n not in FREE_TEXT | BY_PROCESS],
)
def test_each_variable_reaches_its_component(name: str) -> None:
    environ = {name: BAD.get(name, "?")}
    if name == "QWEN_API_PORT":
        environ["REWARD_API_ADDRESS"] = "a"
    with pytest.raises(SettingsError, match=rf"{name}=.*expected "):
        HOMES[home(name)](environ)


@pytest.mark.parametrize("name", sorted(BY_PROCESS))
def test_each_variable_of_a_process_reaches_its_component(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "?")
    with pytest.raises(SettingsError, match=rf"{name}='\?': expected "):
        if name == "VLLM_USE_V2_MODEL_RUNNER":
            check_model_runner()
        else:
            SandboxSettings()


def test_texts_reach_their_components() -> None:
    assert RewardSettings.from_env({"THYME_JUDGE_MODEL": " m "}).judge.model == "m"
    assert SandboxSettings.from_env({"THYME_SANDBOX_PRELOAD": "json"}).preload == ("json",)


@pytest.mark.parametrize("read", HOMES.values())
def test_the_defaults_of_the_table_are_those_of_the_settings(read: object) -> None:
    kind = read.__self__  # type: ignore[attr-defined]
    assert kind.from_env({}) == kind()
    assert DISABLEABLE_LAYERS == VARIABLES["THYME_SANDBOX_DISABLE"].choices
    written = {
        name: ",".join(v.default) if isinstance(v.default, tuple) else str(v.default)
        for name, v in VARIABLES.items()
        if v.default is not None and HOMES.get(home(name)) == read
    }
    assert kind.from_env(written) == kind()
