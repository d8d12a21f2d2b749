"""Tools of one's own: imported in generated code, wherever they lie, and changed by none of it."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from swift_thyme.commands.main import app
from swift_thyme.core.errors import SandboxUnavailableError, SettingsError
from swift_thyme.sandbox import InputImage, SandboxPool, SandboxSettings, open_pool
from swift_thyme.sandbox.remote_settings import RemoteSettings
from swift_thyme.sandbox.session_config import Confinement
from swift_thyme.sandbox.tool_loading import check_places
from tests.conftest import python_program, run_program
from tests.sandbox.conftest import IMAGE_PATH, jpeg, small_settings
from tests.sandbox.servers import ServerProcess, remote_pool

EXAMPLES = Path(__file__).parent / "tool_examples"
LAYERS = {"all layers": (), "no namespaces": ("namespaces",)}


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return what the files of a folder hold, their modes and their times."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), state.st_mode, state.st_mtime_ns)
        for path, state in ((path, path.stat()) for path in files)
    }


@pytest.fixture(scope="module", params=LAYERS)
def folder_and_pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, SandboxPool]]:
    """A link to a folder below the private /tmp, beside a secret, and a pool that has it."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "tools"
    shutil.copytree(EXAMPLES, home / "store", ignore=shutil.ignore_patterns("__pycache__"))
    folder.symlink_to(home / "store")
    (home / "secret.txt").write_text("hunter2")
    for above in (home, *home.parents):
        if not above.stat().st_mode & 1:
            above.chmod(0o755)  # without namespaces, sessions of root enter it as another user
    settings = small_settings(tools=(str(folder),), disable=LAYERS[request.param])
    with SandboxPool(settings) as pool:
        yield folder, pool


def test_code_imports_tools_and_gets_a_picture_back(
    folder_and_pool: tuple[Path, SandboxPool],
) -> None:
    _, pool = folder_and_pool
    with pool.open_sync([InputImage(IMAGE_PATH, jpeg())]) as session:
        result = session.run_sync(
            "import zoomer\nfrom pack import double\n"
            "zoomer.enlarge(Image.open(image_path), (10, 20, 30, 50), 3).save('crop.png')\n"
            "print(zoomer.lookup('answer'), double(4), zoomer.TABLE.exists())"
        )
    assert (result.stdout, result.error) == ("42 8 True\n", None)
    (picture,) = result.images
    assert Image.open(io.BytesIO(picture.data)).size == (60, 90)


ATTACKS = """
import ctypes, os, zoomer
folder, mine = os.path.dirname(zoomer.__file__), zoomer.__file__
libc = ctypes.CDLL(None)
tries = {
    "write": lambda: open(mine, "a").write("HACKED"),
    "new file": lambda: open(folder + "/evil.py", "w").write("HACKED"),
    "bytecode": lambda: os.makedirs(folder + "/__pycache__/x"),
    "remove": lambda: os.remove(mine),
    "move": lambda: os.rename(folder + "/pack", folder + "/other"),
    "swap": lambda: os.replace("/tmp/evil.py", mine),
    "truncate": lambda: os.truncate(mine, 0),
    "link": lambda: os.link(mine, folder + "/again.py"),
    "by libc": lambda: 1 / 0 if libc.unlink(mine.encode()) else None,
    "beside": lambda: print(open(os.path.dirname(folder) + "/secret.txt").read()),
    "beside by dots": lambda: print(open(folder + "/../secret.txt").read()),
}
open("/tmp/evil.py", "w").write("HACKED")
quietly = {  # without namespaces these do nothing and report success
    "mode": lambda: os.chmod(mine, 0o777),
    "times": lambda: os.utime(mine, (1, 1)),
    "owner": lambda: os.chown(mine, 1, 1),
}
for attempt in quietly.values():
    try:
        attempt()
    except OSError:
        continue
for name, attempt in tries.items():
    try:
        attempt()
    except (OSError, ZeroDivisionError):
        continue
    print("done:", name)
"""


def test_hostile_code_changes_nothing_of_the_folder_and_sees_nothing_beside_it(
    folder_and_pool: tuple[Path, SandboxPool],
) -> None:
    folder, pool = folder_and_pool
    before = contents(folder)
    with pool.open_sync() as session:
        result = session.run_sync(ATTACKS)
    assert (result.stdout, result.error) == ("", None)
    assert contents(folder) == before
    assert not (folder / "__pycache__").exists()


def test_a_session_that_changes_a_module_changes_its_own_alone(
    folder_and_pool: tuple[Path, SandboxPool],
) -> None:
    _, pool = folder_and_pool
    with pool.open_sync() as one, pool.open_sync() as other:
        changed = one.run_sync("import zoomer\nzoomer.lookup = lambda word: 'HACKED'")
        assert changed.ok
        asked = "import zoomer\nprint(zoomer.lookup('answer'))"
        assert one.run_sync(asked).stdout == "HACKED\n"
        assert other.run_sync(asked).stdout == "42\n"
    with pool.open_sync() as later:
        assert later.run_sync(asked).stdout == "42\n"


def test_tools_of_a_server_are_those_of_its_host() -> None:
    settings = small_settings(preload=("numpy", "PIL.Image"), tools=(str(EXAMPLES),))
    with ServerProcess(settings=settings) as server, remote_pool(server.url) as pool:
        with pool.open_sync() as session:
            result = session.run_sync("import zoomer\nprint(zoomer.lookup('answer'))")
        assert (result.stdout, result.error) == ("42\n", None)
        remote = RemoteSettings((server.url,))
        with pytest.raises(SettingsError, match="set it where thyme sandbox-server starts"):
            open_pool(settings, remote)


def test_the_prompt_names_what_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_SANDBOX_TOOLS", f"{EXAMPLES / 'zoomer.py'},{EXAMPLES / 'pack'}")
    monkeypatch.setenv("THYME_SANDBOX_WORKERS", "1")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Look closely.\n{tools}\nThen answer.\n")
    result = CliRunner().invoke(app, ["tools", "--prompt", str(prompt)])
    lines = result.output.splitlines()
    assert result.exit_code == 0, result.output
    assert lines[0] == "Look closely." and lines[-1] == "Then answer."
    assert "- zoomer: Looks closer at pictures." in lines
    (line,) = [line for line in lines if "zoomer.enlarge(" in line]
    assert line.startswith("  - zoomer.enlarge(image")
    assert line.endswith(": Cut a box out of a picture and enlarge it.")
    assert "  - pack.double(value: int) -> int: Twice the value." in lines
    assert not [line for line in lines if "Path(" in line or "loads" in line]


def test_a_prompt_without_tools_is_an_error_and_not_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THYME_SANDBOX_WORKERS", "1")
    result = CliRunner().invoke(app, ["tools"])
    assert result.exit_code == 1
    assert "THYME_SANDBOX_TOOLS is not set" in str(result.exception)


STATIC = {
    "nothing.py": "there is no such file or folder",
    "notes.txt": "it is no Python file with a name that can be imported",
    "two-words.py": "it is no Python file with a name that can be imported",
    "empty": "no Python module lies in it",
}


@pytest.mark.parametrize("name", STATIC)
def test_a_path_that_is_no_tool_is_named_when_settings_are_read(name: str, tmp_path: Path) -> None:
    for file in ("notes.txt", "two-words.py"):
        (tmp_path / file).write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError) as caught:
        SandboxSettings.from_env({"THYME_SANDBOX_TOOLS": str(tmp_path / name)})
    assert f"{tmp_path / name}': {STATIC[name]}" in str(caught.value)


def test_two_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zoomer.py").write_text("")
    with pytest.raises(SettingsError, match="zoomer is there twice"):
        SandboxSettings.from_env({"THYME_SANDBOX_TOOLS": f"{EXAMPLES},{tmp_path / 'zoomer.py'}"})


def test_paths_are_made_absolute_and_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    settings = SandboxSettings.from_env({"THYME_SANDBOX_TOOLS": f"zoomer.py, {EXAMPLES}/zoomer.py"})
    assert settings.tools == (str(EXAMPLES / "zoomer.py"),)


BROKEN = {
    "import torchvision_of_mine": "(line 1): ModuleNotFoundError: No module named",
    "x = 1\ndef f(:": "(line 2): SyntaxError",
    "raise SystemExit(3)": "SystemExit: 3",
    "raise ValueError('one\\ntwo')": "ValueError: one two",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()": (
        "it starts a thread"
    ),
}


def test_a_module_that_cannot_be_imported_says_why_in_one_line(tmp_path: Path) -> None:
    """Each in a fork of one process, as a worker imports it."""
    program = """
import os, sys
from swift_thyme.sandbox.tool_loading import load_tools
for path in sys.argv[1:]:
    if os.fork() == 0:
        try: load_tools((path,))
        except ValueError as error: print(f"{type(error).__name__} {error}", flush=True)
        os._exit(0)
    os.wait()
"""
    paths = []
    for number, text in enumerate(BROKEN):
        paths.append(tmp_path / f"tool_{number}.py")
        paths[-1].write_text(text)
    paths.append(tmp_path / "json.py")
    paths[-1].write_text("")
    run = run_program(python_program("-c", program, *map(str, paths)))
    lines = run.stdout.splitlines()
    assert len(lines) == len(paths), run.stdout + run.stderr
    words = [*BROKEN.values(), "a module named json is installed already"]
    for line, path, word in zip(lines, paths, words, strict=True):
        assert line.startswith(f"SettingsError THYME_SANDBOX_TOOLS: {path}: "), line
        assert word in line


def test_a_pool_with_a_broken_tool_does_not_start_and_names_it(tmp_path: Path) -> None:
    tool = tmp_path / "broken.py"
    tool.write_text("import torchvision_of_mine")
    with (
        pytest.raises(SandboxUnavailableError) as caught,
        SandboxPool(small_settings(tools=(str(tool),))),
    ):
        pass
    assert f"THYME_SANDBOX_TOOLS: {tool}: it cannot be imported (line 1)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/tmp", "/mnt", "/", "/dev", "/etc", "/proc"])
def test_places_that_a_session_has_of_its_own_are_refused(path: str) -> None:
    with pytest.raises(SettingsError, match=r"a session has a /\S+ of its own; move the tools"):
        check_places((path,), Confinement(True, True, True, 6))


@pytest.mark.skipif(os.geteuid() != 0, reason="sessions of others keep their user id")
def test_tools_that_sessions_cannot_read_are_named_with_the_remedy(tmp_path: Path) -> None:
    tool = tmp_path / "mine.py"
    tool.write_text("")
    tool.chmod(0o600)
    settings = small_settings(tools=(str(tool),))
    with (
        pytest.raises(SandboxUnavailableError, match=f"chmod -R go\\+rX {tool}"),
        SandboxPool(settings),
    ):
        pass
