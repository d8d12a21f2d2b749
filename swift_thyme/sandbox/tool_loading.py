"""Loads tools of one's own in a worker, before it sees a request; its sessions fork with them.

Tools are code of the user's, trusted like the libraries and loaded like them. Sessions see their
files read-only (`rootfs.readable_paths`), so generated code can neither change what another session
or a later worker loads nor see what lies beside them. Every fault ends the worker with one line.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import stat
import sys
import traceback
from collections.abc import Iterator

from swift_thyme.core.errors import SettingsError
from swift_thyme.sandbox.rootfs import MOUNTED
from swift_thyme.sandbox.session_config import Confinement
from swift_thyme.sandbox.tools import VARIABLE, Tool, find_tools

__all__ = ["check_places", "load_tools", "loaded_tools"]

_TAKEN = ("/etc", "/proc", "/sys")
"""Folders that a session's file system makes itself; nothing can be mounted on them."""
_LOADED: list[str] = []


def loaded_tools() -> tuple[str, ...]:
    """Return the names of the modules that this process, or the one it was forked from, loaded."""
    return tuple(_LOADED)


def check_places(paths: tuple[str, ...], confinement: Confinement) -> None:
    """Make sure that sessions will be able to see these paths.

    Args:
        paths: Those of the settings.
        confinement: The layers of sessions.

    Raises:
        SettingsError: They will not; the message says what to do.
    """
    for path in paths:
        beneath = [folder for folder in MOUNTED if f"{folder}/".startswith(f"{path.rstrip('/')}/")]
        if beneath or path in _TAKEN:
            taken = (beneath or [path])[0]
            raise _unusable(path, f"a session has a {taken} of its own; move the tools elsewhere")
        hidden = _hidden(path, confinement.namespaces) if confinement.change_user else None
        if hidden is not None:
            remedy = f"chmod -R go+rX {path}"
            if path.startswith(f"{hidden}/"):
                remedy = f"move the tools to where all users may enter, or chmod go+x {hidden}"
            why = f"sessions have a user id of their own, which cannot read {hidden}"
            raise _unusable(path, f"{why}: {remedy}")


def load_tools(paths: tuple[str, ...]) -> None:
    """Import the modules of all paths.

    Raises:
        SettingsError: One of them cannot be imported; the message says why.
    """
    tools = find_tools(paths)
    for tool in tools:
        if tool.name in sys.modules or _is_installed(tool.name):
            why = f"a module named {tool.name} is installed already; give it another name"
            raise _unusable(tool.path, why)
    # Behind everything else, so that a helper of theirs takes no library's place.
    sys.path += dict.fromkeys(tool.given for tool in tools if tool.is_in_folder)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written there
    try:
        for tool in tools:
            _load(tool)
    finally:
        sys.dont_write_bytecode = writes
    _LOADED[:] = [tool.name for tool in tools]
    if tools:
        gc.collect()
        gc.freeze()  # as the libraries are: no collection in a session looks at them again


def _load(tool: Tool) -> None:
    try:
        if tool.is_in_folder:
            importlib.import_module(tool.name)
        else:
            _import_alone(tool)
    except BaseException as error:  # whatever the module raises is the finding
        what = traceback.format_exception_only(type(error), error)[-1]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename.startswith(tool.path)]
        if isinstance(error, SyntaxError):
            lines.append(error.lineno)
        where = f" (line {lines[-1]})" if lines else ""
        raise _unusable(tool.path, f"it cannot be imported{where}: {what}") from error
    # A process with threads cannot be forked in the state that it is in.
    if sys.platform == "linux" and len(os.listdir("/proc/self/task")) > 1:
        raise _unusable(tool.path, "it starts a thread when it is imported, which tools may not")


def _import_alone(tool: Tool) -> None:
    """Import a file or a package without the modules beside it."""
    folder = os.path.isdir(tool.path)
    file = os.path.join(tool.path, "__init__.py") if folder else tool.path
    inside = [tool.path] if folder else None
    spec = importlib.util.spec_from_file_location(
        tool.name, file, submodule_search_locations=inside
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[tool.name] = module
    spec.loader.exec_module(module)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _hidden(path: str, namespaces: bool) -> str | None:
    """Return what other users cannot read of a tool, or which folder above they cannot enter.

    Args:
        path: Of the settings.
        namespaces: Whether it is mounted, which the folders above do not matter for.
    """
    above = os.path.dirname(os.path.realpath(path))
    while not namespaces and above != "/":
        if not os.stat(above).st_mode & stat.S_IXOTH:
            return above
        above = os.path.dirname(above)
    for item in _everything_in(path):
        if os.path.exists(item):  # no link that leads nowhere
            mode = os.stat(item).st_mode
            wanted = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
            if mode & wanted != wanted:
                return item
    return None


def _everything_in(path: str) -> Iterator[str]:
    yield path
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in (*folders, *files):
            yield os.path.join(folder, name)


def _unusable(path: str, why: str) -> SettingsError:
    return SettingsError(f"{VARIABLE}: {path}: {' '.join(why.split())}")
