"""What a process of a session gives up before it touches anything that a model made.

Every process here is forked from the template, never from the trainer. The order matters: limits
and capabilities first, Landlock next, the system call filter last.
"""

from __future__ import annotations

import os
import resource
import signal

from swift_thyme.sandbox import landlock, linux, seccomp
from swift_thyme.sandbox.session_config import Confinement, SessionConfig

__all__ = [
    "close_descriptors",
    "confine_encoder",
    "confine_keeper",
    "confine_runner",
    "measure_address_space",
    "prepare_filters",
]

MIB = 1024 * 1024
_MAX_BLOCK_CPU_S = 7200


def prepare_filters(confinement: Confinement) -> None:
    """Make the system call filters of all sessions; in the process that forks them."""
    if confinement.seccomp:
        for allow_fork in (True, False):
            for keep_metadata in {False, not confinement.namespaces}:
                seccomp.build_filter(allow_fork, keep_metadata)
        seccomp.build_filter(True, False, True)


def close_descriptors(keep: set[int]) -> None:
    """Close every descriptor from 3 on that is not in `keep`."""
    start = 3
    for descriptor in sorted(d for d in keep if d >= 3):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 1 << 20)


def _address_space() -> int:
    """Bytes of address space that this process has now: the libraries, mostly."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def measure_address_space() -> int:
    """Return the bytes of address space of the calling process; call it where /proc is whole."""
    return _address_space()


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _resource_limits(config: SessionConfig, library_bytes: int) -> None:
    settings = config.settings
    _limit(resource.RLIMIT_AS, library_bytes + settings.memory_mb * MIB)
    _limit(resource.RLIMIT_CPU, _MAX_BLOCK_CPU_S)
    _limit(resource.RLIMIT_FSIZE, config.disk_bytes)
    _limit(resource.RLIMIT_NOFILE, settings.open_files)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 64 * 1024)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_SIGPENDING, 256)
    # Without a user id or user namespace of its own, the count would include the trainer's.
    if config.confinement.namespaces or config.user_id is not None:
        _limit(resource.RLIMIT_NPROC, settings.processes)
    # A file that reaches its limit is an error to the program, not a deadly signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _lock_down(config: SessionConfig, writable: tuple[str, ...], allow_fork: bool) -> None:
    _give_up_rights(config)
    if config.confinement.landlock_abi:
        landlock.restrict_paths(_readable(config), writable, config.confinement.landlock_abi)
    if config.confinement.seccomp:
        keep_metadata = not config.confinement.namespaces
        linux.install_seccomp(seccomp.build_filter(allow_fork, keep_metadata))


def confine_keeper(config: SessionConfig, store: int) -> None:
    """Confine the process that copies what the model's code wrote to the session's own files.

    What it forks from now on is confined twice.

    Args:
        config: The session's surroundings.
        store: Descriptor of the folder of copies.

    Raises:
        OSError: A layer that the probe found could not be applied.
    """
    confinement = config.confinement
    _give_up_rights(config)
    if confinement.landlock_abi:
        writable = (*config.folders.writable, *_devices(config))
        # It stops the session's processes, of which it forked some before this.
        landlock.restrict_paths(
            _readable(config), writable, confinement.landlock_abi, (store,), scoped=False
        )
    if confinement.seccomp:
        linux.install_seccomp(seccomp.build_filter(True, False, True))


def _give_up_rights(config: SessionConfig) -> None:
    if config.confinement.namespaces or config.user_id is not None or os.geteuid() == 0:
        linux.drop_capabilities()
    if linux.SUPPORTED:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def _devices(config: SessionConfig) -> tuple[str, ...]:
    """Return the devices that can be written to."""
    return ("/dev/null", "/dev/zero", "/dev/full") if config.confinement.namespaces else ()


def _readable(config: SessionConfig) -> list[str]:
    if config.confinement.namespaces:
        return ["/"]
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    paths = [*config.sources, *devices]
    if config.base is not None:
        paths.append(f"{config.base}/inputs")
    return paths


def confine_runner(config: SessionConfig, library_bytes: int) -> None:
    """Confine the process that will run code of the model.

    Raises:
        OSError: A layer that the probe found could not be applied.
    """
    _resource_limits(config, library_bytes)
    _lock_down(config, (*config.folders.writable, *_devices(config)), allow_fork=True)


def confine_encoder(config: SessionConfig, library_bytes: int) -> None:
    """Confine the process that decodes images that code of the model wrote: it reads only."""
    _resource_limits(config, library_bytes)
    folders = () if config.confinement.namespaces else config.folders.writable
    if config.confinement.landlock_abi:
        _give_up_rights(config)
        readable = [*_readable(config), *folders]
        landlock.restrict_paths(readable, (), config.confinement.landlock_abi)
        if config.confinement.seccomp:
            linux.install_seccomp(seccomp.build_filter(False, False))
        return
    _lock_down(config, (), allow_fork=False)
