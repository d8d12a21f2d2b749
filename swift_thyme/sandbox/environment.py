"""The environment of worker processes: an allow list, so that no secret gets in."""

from __future__ import annotations

import os
import site
from pathlib import Path

import swift_thyme

__all__ = ["package_root", "session_environment", "worker_environment"]

_PASSED_ON = ("LD_LIBRARY_PATH", "TZ")


def package_root() -> str:
    """Return the folder that holds the package, for workers of a source checkout."""
    return str(Path(swift_thyme.__file__).resolve().parent.parent)


def worker_environment() -> dict[str, str]:
    """Return the environment in which a worker process starts."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if site.ENABLE_USER_SITE:
        environment["PYTHONUSERBASE"] = site.getuserbase()
    environment.update(session_environment())
    environment["PYTHONPATH"] = package_root()
    return environment


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
