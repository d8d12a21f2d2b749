"""Folders of the host that stand in for private mounts where there is no mount namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from swift_thyme.sandbox.rootfs import PrivateFolders

__all__ = ["make_session_folders", "make_worker_folder", "private_folders", "remove_stale_folders"]

_FOLDER_PREFIX = "swift-thyme-sandbox-"


def make_worker_folder() -> str:
    """Make the folder in which the sessions of this worker have theirs."""
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=_host_temporary())
    os.chmod(folder, 0o711)
    return folder


def _host_temporary() -> str:
    """Return the host's folder for temporary files; TMPDIR here is the session's."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else "/tmp"


def make_session_folders(parent: str, serial: int, user_id: int | None) -> str:
    """Make the folders of one session; return the one that holds them all."""
    base = f"{parent}/{serial}"
    names = ("output", "tmp", "shm", "inputs", "undo")
    for path in (base, *(f"{base}/{name}" for name in names)):
        os.mkdir(path, 0o700)
        if user_id is not None:
            os.chown(path, user_id, user_id)
    return base


def private_folders(base: str) -> PrivateFolders:
    """Return the private folders of the session whose folder is `base`."""
    return PrivateFolders(f"{base}/output", f"{base}/tmp", f"{base}/shm")


def remove_stale_folders() -> None:
    """Remove folders whose worker is dead; a worker killed by SIGKILL cannot clean up."""
    for path in Path(_host_temporary()).glob(f"{_FOLDER_PREFIX}*"):
        pid = path.name[len(_FOLDER_PREFIX) :].split("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and path.stat().st_uid == os.geteuid():
                if not Path(f"/proc/{pid}").exists():
                    shutil.rmtree(path, ignore_errors=True)
