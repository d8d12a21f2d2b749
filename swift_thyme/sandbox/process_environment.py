"""The surroundings of worker processes: variables from an allow list, and where imports look."""

from __future__ import annotations

import importlib.util
import os
import site
import sys
from pathlib import Path

import swift_thyme
from swift_thyme.sandbox.sandbox_settings import DEFAULT_PRELOAD

__all__ = [
    "hide_package_folder",
    "library_folders",
    "package_root",
    "session_environment",
    "worker_environment",
]

_PASSED_ON = ("LD_LIBRARY_PATH", "TZ")
_LIBRARIES = tuple(dict.fromkeys(name.partition(".")[0] for name in DEFAULT_PRELOAD))
"""Libraries that decide which folders of the import path a worker gets."""


def package_root() -> str:
    """Return the folder that holds the package: a checkout, or a folder of libraries."""
    return str(Path(swift_thyme.__file__).resolve().parent.parent)


def library_folders() -> list[str]:
    """Return the folders of the import path that the libraries of generated code lie in.

    Libraries may lie in several places: site-packages, and folders of ``PYTHONPATH`` that a cluster
    or ``pip install --target`` made. The order is that of the import path: two folders may hold
    the same library.
    """
    found: set[str] = set()
    for name in _LIBRARIES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        # A folder without __init__.py is no library, whatever it is called; it has no origin.
        if spec is not None and spec.origin is not None:
            # A package may be a link into a store that holds nothing else that it needs.
            places = spec.submodule_search_locations or ()
            found.update(os.path.realpath(os.path.dirname(place)) for place in places)
    order = {os.path.realpath(path or "."): rank for rank, path in reversed([*enumerate(sys.path)])}
    return sorted(found, key=lambda folder: (order.get(folder, len(order)), folder))


def hide_package_folder() -> None:
    """Take the folder of this package off the import path, unless libraries lie there too.

    Generated code is not to import what else a checkout holds. In an installed package the folder
    is site-packages, without which no library is found.
    """
    hidden = {"", os.getcwd(), package_root()} - set(library_folders())
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") not in hidden]


def worker_environment(huge_pages: bool = True) -> dict[str, str]:
    """Return the environment in which a worker process starts."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if site.ENABLE_USER_SITE:
        environment["PYTHONUSERBASE"] = site.getuserbase()
    environment.update(session_environment())
    if not huge_pages:
        del environment["GLIBC_TUNABLES"]
    # What Python finds by itself must not stand here: it would come before the standard library.
    found = {os.path.realpath(folder) for folder in _own_folders()}
    wanted = dict.fromkeys([package_root(), *library_folders()])
    environment["PYTHONPATH"] = os.pathsep.join(f for f in wanted if f not in found)
    return environment


def _own_folders() -> list[str]:
    """Return the folders of libraries that every process of this interpreter looks into."""
    folders = site.getsitepackages()
    return [*folders, site.getusersitepackages()] if site.ENABLE_USER_SITE else folders


def session_environment() -> dict[str, str]:
    """Return the environment that code of the model sees."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "USER": "user",
        "PYTHONIOENCODING": "utf-8",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": "/tmp",
        # One thread per block: blocks run side by side, and a process with threads cannot fork.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
        "OPENCV_OPENCL_RUNTIME": "disabled",
        # Large arrays get fresh huge pages, one fault for 2 MiB: a forked process would else pay
        # for every 4 KiB of its first images.
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576",
    }
