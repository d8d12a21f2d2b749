"""A copy of what the contract reads of ms-swift and transformers, in which names can be renamed."""

import importlib
import py_compile
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swift_thyme.host.compiled_names import package_folder
from swift_thyme.host.contract_table import USES


class HostCopy:
    """The copy.

    Args:
        folder: Where it lies; stands first in ``sys.path`` while it is used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for module in sorted({use.module for use in USES} | {"swift.version"}):
            package, _, rest = module.partition(".")
            source = package_folder(package)
            assert source is not None
            self._copy(source, package, rest.replace(".", "/"))
        for package in ("swift", "transformers"):
            (folder / package / "__init__.py").touch()

    def _copy(self, source: Path, package: str, place: str) -> None:
        relative = f"{place}.py" if (source / f"{place}.py").is_file() else f"{place}/__init__.py"
        target = self.folder / package / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / relative, target)
        # As an installed package has it.
        py_compile.compile(str(target), doraise=True)

    def path(self, module: str) -> Path:
        """Return the file of a module."""
        base = self.folder.joinpath(*module.split("."))
        file = base.with_suffix(".py")
        return file if file.is_file() else base / "__init__.py"

    @contextmanager
    def renamed(self, module: str, name: str) -> Iterator[None]:
        """Rename a name in a module, wherever it stands there."""
        pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)|(?<=\.){re.escape(name)}(?!\w)")
        text = self.path(module).read_text("utf-8")
        changed, count = pattern.subn(f"{name}_of_later", text)
        assert count, f"{name} does not occur in {module}"
        with self.changed(module, changed):
            yield

    @contextmanager
    def changed(self, module: str, text: str | None) -> Iterator[None]:
        """Put another text in a module's place; None removes it."""
        file = self.path(module)
        before = file.with_suffix(".before")
        file.rename(before)
        try:
            if text is not None:
                file.write_text(text, "utf-8")
            importlib.invalidate_caches()
            yield
        finally:
            before.replace(file)
            importlib.invalidate_caches()


@pytest.fixture(scope="module")
def host_files(tmp_path_factory: pytest.TempPathFactory) -> HostCopy:
    """The copy, which is not used yet."""
    if package_folder("swift") is None:
        pytest.skip("ms-swift is not installed")
    return HostCopy(tmp_path_factory.mktemp("host"))


@pytest.fixture
def host(host_files: HostCopy, monkeypatch: pytest.MonkeyPatch) -> HostCopy:
    """The copy, where Python would import ms-swift from."""
    monkeypatch.syspath_prepend(str(host_files.folder))
    for package in ("swift", "transformers"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    # A changed file may have the size and the second of the one before it.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return host_files
