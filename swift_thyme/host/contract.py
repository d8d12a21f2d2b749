"""The written contract with ms-swift: every name of it that is used beyond its plugin interface.

ms-swift documents a plugin interface (``DOCUMENTED``). It does not carry the whole job, so this
package also reads and replaces things that ms-swift may move at any time. ``USES`` in
:mod:`swift_thyme.host.contract_table` lists them: the name, the module here that needs it, and the
reason. :func:`require` looks each of them up in the compiled code of the installed ms-swift when a
plugin is imported, before anything is patched. It imports nothing and takes some 7 ms for the main
job (60 ms where Python may not keep compiled files). A missing name ends the job with one line;
without it, rewards would count as zero, metrics would vanish, or a flag would be refused.

Uses are grouped by feature, and a plugin asks for the groups that it needs: a job with the rewards
alone does not stop for a piece of the scheduler. A test renames each name in a copy of ms-swift and
sees the line; another one finds uses in this package that the table lacks. Both keep it complete.

What is not covered: a name that stays and changes its meaning. The end-to-end tests are for that.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
from collections.abc import Iterable

from swift_thyme.core.errors import HostError
from swift_thyme.host.compiled_names import Scope, package_folder, read_module
from swift_thyme.host.contract_table import USES, Group, Piece

__all__ = ["REQUIREMENT", "find_missing", "host_version", "is_tested", "require"]

logger = logging.getLogger(__name__)

TESTED_SERIES = "4.6"
"""Versions of ms-swift that this package was run with, up to the last number."""
REQUIREMENT = "ms-swift>=4.6,<4.7"


def find_missing(groups: Iterable[Group]) -> dict[Group, list[Piece]]:
    """Look up every name that some groups need.

    Args:
        groups: What is asked about.

    Returns:
        Group to the names that the installed packages lack, in the order of the table.
    """
    folders = {package: package_folder(package) for package in ("swift", "transformers")}
    modules: dict[str, Scope | None] = {}
    missing: dict[Group, list[Piece]] = {group: [] for group in groups}
    for use in USES:
        if use.group not in missing:
            continue
        if use.module not in modules:
            folder = folders[use.module.partition(".")[0]]
            modules[use.module] = read_module(use.module, folder) if folder else None
        module = modules[use.module]
        absent = [p for p in use.pieces if module is None or not p.is_there(module)]
        missing[use.group].extend(absent)
    return missing


def host_version() -> str | None:
    """Return the version of the ms-swift that would be imported; None where it does not say."""
    folder = package_folder("swift")
    path = folder / "version.py" if folder else None
    if path is None or not path.is_file():
        return None
    found = re.search(r"^__version__ *= *['\"](.+)['\"]", path.read_text("utf-8"), re.MULTILINE)
    return found.group(1) if found else None


def is_tested(version: str | None) -> bool:
    """Tell whether a version of ms-swift is one that this package was run with."""
    return version is not None and version.split(".")[:2] == TESTED_SERIES.split(".")


def require(*groups: Group) -> None:
    """Make sure that the installed ms-swift has what some features need.

    A version that was not tested is worth a warning where nothing is missing.

    Raises:
        HostError: Something is missing; one line names it and says what to do.
    """
    if package_folder("swift") is None:
        raise HostError(f"ms-swift is not installed: pip install '{REQUIREMENT}'")
    version = host_version()
    missing = find_missing(groups)
    pieces = [(piece, group) for group, found in missing.items() for piece in found]
    if pieces:
        piece, group = pieces[0]
        more = f" and {len(pieces) - 1} more" if len(pieces) > 1 else ""
        raise HostError(
            f"{_found(piece, version)} lacks {piece}{more}, which swift_thyme needs for "
            f"{group.value}; tested with ms-swift {TESTED_SERIES}.x: pip install '{REQUIREMENT}', "
            "or see `thyme doctor`"
        )
    if not is_tested(version):
        _warn(version)


def _found(piece: Piece, version: str | None) -> str:
    package = piece.module.partition(".")[0]
    if package == "swift":
        return f"ms-swift {version or '(of an unknown version)'}"
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


@functools.cache
def _warn(version: str | None) -> None:
    logger.warning(
        "ms-swift %s: swift_thyme was tested with %s.x; every name that it uses is there",
        version or "of an unknown version",
        TESTED_SERIES,
    )
