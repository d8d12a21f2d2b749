"""Landlock rules: which files a confined process may touch, and that it may not reach out.

Beyond files this layer forbids TCP (version 4), and signals and abstract unix sockets to processes
outside (version 6). Each block enters a nested domain of its own, so that it can neither signal
nor trace the frozen process that keeps the state from before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from swift_thyme.sandbox import linux

__all__ = ["restrict_paths", "restrict_scope"]

_EXECUTE = 1 << 0
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_REFER = 1 << 13
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
_MAKE_CHAR = 1 << 6
_MAKE_SOCK = 1 << 9
_MAKE_FIFO = 1 << 10
_MAKE_BLOCK = 1 << 11
_FILE_ONLY = _EXECUTE | 1 << 1 | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_ALL_NET = 0b11
_ALL_SCOPES = 0b11


def _all_fs(abi: int) -> int:
    access = (1 << 13) - 1
    if abi >= 2:
        access |= _REFER
    if abi >= 3:
        access |= _TRUNCATE
    if abi >= 5:
        access |= _IOCTL_DEV
    return access


def restrict_paths(
    readable: Iterable[str],
    writable: Iterable[str],
    abi: int,
    open_folders: Iterable[int] = (),
    scoped: bool = True,
) -> None:
    """Allow this process and its children to read and write beneath these paths only.

    Args:
        readable: Files and folders that may be read; those that do not exist are skipped.
        writable: Folders in which regular files, folders and links may be made and changed.
        abi: Version that `linux.landlock_abi` gave.
        open_folders: Descriptors of further writable folders, which may have no path any more.
        scoped: Whether to forbid signals to processes outside as well.
    """
    everything = _all_fs(abi)
    read = _READ_FILE | _READ_DIR
    write = everything & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_FIFO | _MAKE_SOCK)
    ruleset = linux.landlock_create(everything, _ALL_NET, _ALL_SCOPES if scoped else 0, abi)
    try:
        for access, paths in ((read, readable), (write, writable)):
            for path in paths:
                try:
                    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    wanted = access if os.path.isdir(path) else access & _FILE_ONLY
                    # Writing to /dev/null is what it is for.
                    if path.startswith("/dev/"):
                        wanted |= 1 << 1
                    linux.landlock_allow_path(ruleset, descriptor, wanted & everything)
                finally:
                    os.close(descriptor)
        for descriptor in open_folders:
            linux.landlock_allow_path(ruleset, descriptor, write)
        linux.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def restrict_scope(abi: int) -> bool:
    """Enter a nested domain from which processes outside cannot be signalled or traced.

    Returns:
        False where the kernel is too old, has none, or the nesting limit is reached.
    """
    if abi < 6:
        return False
    try:
        ruleset = linux.landlock_create(0, 0, _ALL_SCOPES, abi)
        try:
            linux.landlock_restrict(ruleset)
        finally:
            os.close(ruleset)
    except OSError:
        return False
    return True
