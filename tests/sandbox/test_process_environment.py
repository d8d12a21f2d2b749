"""Where workers find the libraries, and which folders generated code cannot import from.

Each layout is made of copies and used by an interpreter without an environment of its own, as
``pip install --target`` and a cluster's ``PYTHONPATH`` are.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.sandbox.process_environment import library_folders
from tests.conftest import ROOT, cpu_environment

PYTHON = Path(sys.executable).resolve()
"""The interpreter that the environment was made with; it does not know the environment."""

REPORT = """
import json, os
from swift_thyme.sandbox import SandboxPool
from swift_thyme.sandbox.process_environment import library_folders, worker_environment

def said(session, code):
    result = session.run_sync(code)
    return (result.stdout + (result.error or "")).strip()

if __name__ == "__main__":
    with SandboxPool() as pool, pool.open_sync() as session:
        print(json.dumps({
            "folders": library_folders(),
            "path": worker_environment()["PYTHONPATH"].split(os.pathsep),
            "said": [said(session, code) for code in json.loads(os.environ["PROGRAMS"])],
        }))
"""

DRAWS = "import PIL, cv2, numpy\nprint(Image.new('RGB', (4, 2)).size, cv2.__name__, np.ones(2))"
DRAWN = "(4, 2) cv2 [1. 1.]"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def put_package(folder: Path) -> None:
    """Put this package into a folder, without the tiny model."""
    left_out = shutil.ignore_patterns("model", "__pycache__")
    shutil.copytree(ROOT / "swift_thyme", folder / "swift_thyme", ignore=left_out)


def put_libraries(folder: Path, *names: str) -> None:
    """Put installed libraries into a folder, with the shared objects that they load."""
    folder.mkdir(exist_ok=True)
    shared = {"PIL": "pillow.libs", "numpy": "numpy.libs", "cv2": "opencv_*.libs"}
    for name in names:
        spec = find_spec(name)
        assert spec is not None and spec.submodule_search_locations
        source = Path(next(iter(spec.submodule_search_locations)))
        for place in (source, *source.parent.glob(shared[name])):
            if place.is_dir():
                shutil.copytree(place, folder / place.name, copy_function=_link)


def stub(folder: Path, name: str, text: str) -> None:
    """Write a package of one line."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(text + "\n")


def report(path: Sequence[Path], *programs: str) -> dict[str, Any]:
    """Run programs as blocks of one session and return them with what was found.

    Args:
        path: The import path of the process that owns the pool.
        programs: The blocks.
    """
    environment = cpu_environment(
        PYTHONPATH=os.pathsep.join(map(str, path)),
        THYME_SANDBOX_WORKERS="1",
        PROGRAMS=json.dumps(programs),
    )
    done = subprocess.run(
        [PYTHON, "-c", REPORT],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    for name in ("folders", "path"):  # this Python may have libraries of its own
        found[name] = [folder for folder in found[name] if not folder.startswith(sys.base_prefix)]
    return found


def test_an_install_with_the_libraries_in_the_same_folder(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    put_package(packages)
    put_libraries(packages, "PIL", "numpy", "cv2")
    found = report([packages], DRAWS)
    assert found["folders"] == found["path"] == [str(packages)]
    assert found["said"] == [DRAWN]


def test_libraries_in_several_folders_are_found_in_the_order_of_the_import_path(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    put_package(first)
    put_libraries(first, "PIL")
    put_libraries(second, "numpy", "cv2")
    for folder in (first, second):
        stub(folder, "sympy", f"FOLDER = {folder.name!r}")
        # Modules that nothing has loaded yet come from the disk that the session sees.
        stub(folder, f"only_{folder.name}", "FOUND = True")
    late = "import only_first, only_second\nprint(only_first.FOUND, only_second.FOUND)"
    found = report([first, second], DRAWS, "import sympy\nprint(sympy.FOLDER)", late)
    assert found["folders"] == found["path"] == [str(first), str(second)]
    assert found["said"] == [DRAWN, "first", "True True"]


def test_generated_code_cannot_import_the_other_modules_of_a_checkout(tmp_path: Path) -> None:
    checkout, libraries = tmp_path / "checkout", tmp_path / "libraries"
    put_package(checkout)
    (checkout / "training_secret.py").write_text("VALUE = 1\n")
    put_libraries(libraries, "PIL", "numpy", "cv2")
    found = report([checkout, libraries], DRAWS, "import training_secret")
    assert found["folders"] == [str(libraries)]
    drawn, imported = found["said"]
    assert drawn == DRAWN
    assert "No module named 'training_secret'" in imported


def test_a_package_that_is_a_link_counts_for_the_folder_that_holds_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, view = tmp_path / "store", tmp_path / "view"
    stub(store, "sympy", "")
    view.mkdir()
    (view / "sympy").symlink_to(store / "sympy")
    monkeypatch.delitem(sys.modules, "sympy", raising=False)
    monkeypatch.syspath_prepend(view)
    assert library_folders()[0] == str(view)
    assert str(store) not in library_folders()


def test_a_folder_that_is_called_like_a_library_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matplotlib").mkdir()
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert str(tmp_path) not in library_folders()
