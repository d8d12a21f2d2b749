"""The file system that a session sees: read-only system folders, private writable ones.

Built inside the session's own mount namespace, so nothing of it exists on the host and all of it
is gone when the session's last process is. Not covered: hiding what the Python installation and
/usr themselves contain; do not keep secrets there.
"""

from __future__ import annotations

import os
import site
import stat
import sys
from collections.abc import Iterable
from typing import NamedTuple

from swift_thyme.core.protocol import OUTPUT_DIR
from swift_thyme.sandbox import linux
from swift_thyme.sandbox.process_environment import library_folders

__all__ = ["PrivateFolders", "attach_image", "build", "readable_paths", "seal"]

OUTPUT_FOLDER = OUTPUT_DIR.rstrip("/")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "fonts",
    "localtime",
    "timezone",
    "mime.types",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_UNDO = "/.undo"
_PASSWD = "user:x:1000:1000::/tmp:/bin/sh\n"


class PrivateFolders(NamedTuple):
    """Where the private folders of a session are, as its own processes see them."""

    output: str
    temporary: str
    shared_memory: str

    @property
    def writable(self) -> tuple[str, ...]:
        """Every folder that the session's code can write to."""
        return tuple(self)


MOUNTED = PrivateFolders(OUTPUT_FOLDER, "/tmp", "/dev/shm")


def readable_paths(tools: Iterable[str] = ()) -> list[str]:
    """Return what of the host a session may read: system folders, this Python, tools, no more.

    Args:
        tools: Files and folders of the user's that generated code may import.
    """
    paths = [p for p in _SYSTEM if os.path.exists(p)]
    paths += [f"/etc/{name}" for name in _ETC if os.path.exists(f"/etc/{name}")]
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    prefixes.add(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))
    # Packages installed elsewhere, for example with pip install --user or --target.
    prefixes.update(library_folders())
    if site.ENABLE_USER_SITE:
        prefixes.add(site.getusersitepackages())
    for prefix in sorted(prefixes):
        real = os.path.realpath(prefix)
        for path in {prefix, real}:
            inside = any(path == p or path.startswith(p + "/") for p in paths)
            if path != "/" and os.path.isdir(path) and not inside:
                paths.append(path)
    for tool in tools:
        for path in dict.fromkeys((tool, os.path.realpath(tool))):
            if not any(path == p or path.startswith(f"{p}/") for p in paths):
                paths.append(path)
    return paths


def _make_parents(root: str, path: str, folder: bool) -> str:
    """Make a mount point for `path` beneath `root` and return it."""
    target = root + path
    if folder:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    return target


def _is_private(path: str) -> bool:
    return any(path.startswith(f"{folder}/") for folder in MOUNTED)


def _place(root: str, source: str, descriptor: int) -> None:
    """Mount, or link, what a descriptor stands for beneath `root`; closes the descriptor."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISLNK(mode):
        target = root + source
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink("", dir_fd=descriptor), target)
    else:
        target = _make_parents(root, source, stat.S_ISDIR(mode))
        _bind(f"/proc/self/fd/{descriptor}", target)
    os.close(descriptor)


def _bind(source: str, target: str, writable: bool = False, devices: bool = False) -> None:
    """Mount a file or a folder, with what is mounted beneath a folder, at another place."""
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    flags = linux.MS_NOSUID
    if not writable:
        flags |= linux.MS_RDONLY
    if not devices:
        flags |= linux.MS_NODEV
    linux.set_mount_flags(target, flags, recursive=os.path.isdir(target))


def _staging_point(sources: list[str]) -> str:
    """Return a folder to build the new root on that hides none of the sources."""
    for path in ("/mnt", "/media", "/srv", "/opt", "/run", "/var", "/tmp"):
        hides = any(s == path or s.startswith(path + "/") for s in sources)
        if os.path.isdir(path) and not os.path.islink(path) and not hides:
            return path
    raise OSError("no folder to build the session's file system on")


def open_sources(sources: Iterable[str]) -> list[tuple[str, int]]:
    """Open what `build` will mount, while this process still may enter every parent folder.

    A Python installation under /root can be mounted for a user who could not reach it.
    """
    opened = []
    for path in sources:
        flags = os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if os.path.islink(path) else 0)
        opened.append((path, os.open(path, flags)))
    return opened


def build(sources: list[tuple[str, int]], disk_bytes: int, inodes: int) -> None:
    """Build the root of this mount namespace and enter it.

    Must run in new user, mount and pid namespaces, with all capabilities there.

    Args:
        sources: What `open_sources` gave; the descriptors are closed.
        disk_bytes: Size of the private folders together.
        inodes: Files and folders in them.

    There is no /proc in it: the list of mounts there names folders of the host.

    Raises:
        OSError: A mount failed.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    root = _staging_point([path for path, _ in sources])
    plain = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", root, "tmpfs", plain, "size=16m,nr_inodes=4096,mode=755")
    # A Python installation below /tmp has to be placed into the private /tmp that covers it.
    covered = [item for item in sources if _is_private(item[0])]
    for source, descriptor in sources:
        if not _is_private(source):
            _place(root, source, descriptor)
    for name in _DEVICES:
        _bind(f"/dev/{name}", _make_parents(root, f"/dev/{name}", False), True, devices=True)
    os.makedirs(f"{root}/etc", exist_ok=True)
    with open(f"{root}/etc/passwd", "w") as file:
        file.write(_PASSWD)
    # One file system for all private folders, so that they share one size limit.
    private = _make_parents(root, "/.private", True)
    options = f"size={disk_bytes},nr_inodes={inodes},mode=700"
    linux.mount("tmpfs", private, "tmpfs", plain, options)
    for name, folder in zip(("output", "tmp", "shm"), MOUNTED, strict=True):
        os.mkdir(f"{private}/{name}", 0o700)
        _bind(f"{private}/{name}", _make_parents(root, folder, True), writable=True)
    linux.umount_detached(private)
    for source, descriptor in covered:
        _place(root, source, descriptor)
    # Input images, and the copies that undo failed blocks, which are no more than there is to
    # copy; only the keeper can reach them.
    linux.mount("tmpfs", private, "tmpfs", plain, "mode=700")
    undo = _make_parents(root, _UNDO, True)
    linux.mount("tmpfs", undo, "tmpfs", plain, options)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount_detached(".")
    os.chdir("/")


def attach_image(descriptor: int, path: str, index: int) -> None:
    """Copy an image from a descriptor and mount it read-only at `path`.

    Raises:
        OSError: The path lies inside a read-only system folder where there is no such file.
    """
    copy = f"/.private/input-{index}"
    copy_descriptor(descriptor, copy)
    os.chmod(copy, 0o444)
    if not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    _bind(copy, path)


def copy_descriptor(descriptor: int, target: str) -> None:
    """Copy everything that a descriptor holds into a new file."""
    size = os.fstat(descriptor).st_size
    output = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while offset < size:
            sent = os.sendfile(output, descriptor, offset, size - offset)
            if sent == 0:
                break
            offset += sent
    finally:
        os.close(output)


def hide_private() -> int:
    """Detach inputs and copies from the tree; return the folder of copies, which lives on."""
    descriptor = os.open(_UNDO, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.umount_detached("/.private")
    linux.umount_detached(_UNDO)
    return descriptor


def seal() -> None:
    """Make the root itself read-only; the mounts on it keep their own flags."""
    linux.set_mount_flags("/", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV, recursive=False)
