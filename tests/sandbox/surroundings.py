"""Surroundings in which a sandbox may find itself, each built from what containers are made of.

    python -m tests.sandbox.surroundings NAME -- command...

Every command runs in a process tree, mounts and control groups of its own, whatever the surrounding
is, and cannot write to the host's root file system: a program that gets out of the sandbox under
test ends, fills, signals or changes nothing else. Needs root. `UNAVAILABLE` is the exit status
where a surrounding cannot be built here; stderr says why.

Not covered: the network of a container beyond its own loopback, its image, and what a security
module of the host adds to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from swift_thyme.sandbox import linux
from tests.sandbox.surrounding_calls import (
    CONTAINER_CALLS,
    GVISOR_CALLS,
    OLD_KERNEL_CALLS,
    PODMAN_CALLS,
    Refusals,
    build_program,
)

ROOT = Path(__file__).resolve().parents[2]
UNAVAILABLE = 125
ORDINARY_USER = 1000
MEMORY_FILE = "THYME_TEST_MEMORY_FILE"
"""Variable that names the file in which the kernel counts the memory of a surrounding."""
MAX_PROCESSES = 3000
MIB = 1 << 20

# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
# sys_chroot, mknod, audit_write, setfcap
DOCKER_CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
PODMAN_CAPABILITIES = DOCKER_CAPABILITIES - {13, 27, 29}
_HIDDEN_FILES = ("kcore", "keys", "latency_stats", "timer_list", "sched_debug", "interrupts")
_HIDDEN_FOLDERS = ("/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware")
_HIDDEN_FOLDERS += ("/sys/devices/virtual/powercap",)
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True)
class Surrounding:
    """What one surrounding takes away from a process."""

    title: str
    user: int = 0
    """User id of the command, inside its user namespace where it has one."""
    container: bool = False
    """Whether it has a container's mounts, loopback and 64 MiB of shared memory."""
    own_users: bool = False
    """Whether it is a user namespace of an ordinary user, with a range of ids."""
    capabilities: frozenset[int] | None = None
    """Capabilities that are left; None takes none away."""
    calls: Refusals | None = None
    """System calls that are refused."""
    no_new_privileges: bool = False


SURROUNDINGS = {
    "host-root": Surrounding("host, root"),
    "host-user": Surrounding("host, ordinary user", user=ORDINARY_USER),
    "docker-root": Surrounding(
        "Docker, root",
        container=True,
        capabilities=DOCKER_CAPABILITIES,
        calls=CONTAINER_CALLS,
    ),
    "docker-user": Surrounding(
        "Docker, ordinary user",
        user=ORDINARY_USER,
        container=True,
        capabilities=DOCKER_CAPABILITIES,
        calls=CONTAINER_CALLS,
    ),
    "podman-rootless": Surrounding(
        "Podman without root",
        container=True,
        own_users=True,
        capabilities=PODMAN_CAPABILITIES,
        calls=PODMAN_CALLS,
    ),
    "kubernetes-restricted": Surrounding(
        "Kubernetes, restricted",
        user=ORDINARY_USER,
        container=True,
        capabilities=frozenset(),
        calls=CONTAINER_CALLS,
        no_new_privileges=True,
    ),
    "gvisor": Surrounding(
        "like gVisor, root",
        container=True,
        capabilities=DOCKER_CAPABILITIES,
        calls=GVISOR_CALLS,
    ),
    "old-kernel": Surrounding("like Linux 5.4, root", calls=OLD_KERNEL_CALLS),
}


class UnavailableError(Exception):
    """This host lets the surrounding not be built."""


def command_in(name: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs another one in a surrounding."""
    return [sys.executable, "-m", "tests.sandbox.surroundings", name, "--", *command]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for `command_in`; nothing of the caller's but its search path."""
    values = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/tmp", "LANG": "C.UTF-8"}
    values |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return values | extra


def run(
    name: str, command: Sequence[str], timeout_s: float = 600, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a surrounding and return it with its output captured.

    Raises:
        UnavailableError: The surrounding cannot be built here.
    """
    done = subprocess.run(
        command_in(name, command),
        cwd=ROOT,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode == UNAVAILABLE:
        raise UnavailableError(done.stderr.strip()[-300:])
    return done


# -- control groups --------------------------------------------------------------------------------


class Bounds:
    """Control groups that bound the processes and the memory of everything in a surrounding.

    Raises:
        UnavailableError: There are none to be had; nothing hostile may run here then.
    """

    def __init__(self) -> None:
        name = f"thyme-tests-{os.getpid()}"
        base = Path("/sys/fs/cgroup")
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = str(min(8 << 30, total * 6 // 10))
        if (base / "cgroup.controllers").exists():
            wanted = [(base, {"memory.max": memory, "pids.max": str(MAX_PROCESSES)})]
            self.memory_file = base / name / "memory.current"
        else:
            wanted = [
                (base / "memory", {"memory.limit_in_bytes": memory}),
                (base / "pids", {"pids.max": str(MAX_PROCESSES)}),
            ]
            self.memory_file = base / "memory" / name / "memory.usage_in_bytes"
        self._folders = [parent / name for parent, _ in wanted]
        try:
            for parent, limits in wanted:
                (parent / name).mkdir()
                for file, value in limits.items():
                    (parent / name / file).write_text(value)
        except OSError as error:
            self.remove()
            raise UnavailableError(f"no control group bounds programs here: {error}") from error

    def join(self) -> None:
        """Put this process and those that it will start into them."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove them; the processes in them must be dead, and may take a moment to be gone."""
        for folder in self._folders:
            for inner in sorted(folder.rglob("*/"), reverse=True):
                self._remove(inner)
            self._remove(folder)

    @staticmethod
    def _remove(folder: Path) -> None:
        for _ in range(200):
            try:
                folder.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return
                time.sleep(0.02)
            else:
                return


# -- mounts ----------------------------------------------------------------------------------------


def _bind(source: str, target: str, flags: int = 0) -> None:
    linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
    if flags:
        linux.set_mount_flags(target, flags)


def _mount_proc() -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", flags)


def _mount_tmpfs(target: str, options: str) -> None:
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)


def _make_python_reachable() -> None:
    """Let other users reach a Python installation below a folder that is the owner's alone."""
    for prefix in {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix)}:
        closed = [p for p in Path(prefix).parents if not p.stat().st_mode & 0o001]
        if not closed:
            continue
        cover = str(closed[-1])
        held = os.open(prefix, os.O_PATH | os.O_CLOEXEC)
        _mount_tmpfs(cover, "size=1m,mode=755")
        os.makedirs(prefix)
        _bind(f"/proc/self/fd/{held}", prefix)
        os.close(held)


def _container_devices() -> None:
    held = {name: os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC) for name in _DEVICES}
    linux.mount("tmpfs", "/dev", "tmpfs", linux.MS_NOSUID, "size=64k,mode=755")
    for name, descriptor in held.items():
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        _bind(f"/proc/self/fd/{descriptor}", f"/dev/{name}")
        os.close(descriptor)
    os.symlink("/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.mkdir("/dev/shm")


def _hide_system() -> None:
    """Cover what a container engine covers of /proc and /sys."""
    for name in _HIDDEN_FILES:
        if os.path.exists(f"/proc/{name}"):
            _bind("/dev/null", f"/proc/{name}")
    for folder in _HIDDEN_FOLDERS:
        if os.path.isdir(folder):
            linux.mount("tmpfs", folder, "tmpfs", linux.MS_RDONLY, "size=4k,mode=755")
    for name in _READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            _bind(f"/proc/{name}", f"/proc/{name}", linux.MS_RDONLY)
    linux.set_mount_flags("/sys", linux.MS_RDONLY)


def _start_loopback() -> None:
    with socket.socket() as probe:
        up = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(probe, 0x8914, up)  # SIOCSIFFLAGS


# -- processes -------------------------------------------------------------------------------------


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), f"unshare({flags:#x})")


def _reap(command: int) -> int:
    """Be the init of a pid namespace until a process ends; return its exit status."""
    while True:
        with contextlib.suppress(InterruptedError):
            pid, status = os.wait()
            if pid == command:
                return _shell_status(status)


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _give_up(kept: frozenset[int] | None) -> None:
    if kept is None:
        return
    for number in range(64):
        if number not in kept:
            try:
                linux.prctl(linux.PR_CAPBSET_DROP, number)
            except OSError:
                return  # past the last capability


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _start(surrounding: Surrounding, command: Sequence[str]) -> NoReturn:
    """Give up what the surrounding does not have, and become the command."""
    if surrounding.calls is not None:
        if surrounding.no_new_privileges:
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.install_seccomp(build_program(surrounding.calls))
    _give_up(surrounding.capabilities)
    _become(surrounding.user)
    os.execvp(command[0], list(command))


def _init(surrounding: Surrounding, command: Sequence[str]) -> int:
    """Run the command as a child of this first process of a pid namespace."""
    pid = os.fork()
    if pid == 0:
        _guarded(lambda: _start(surrounding, command))
    return _reap(pid)


def _guarded(body: Callable[[], int]) -> NoReturn:
    """Run the last steps of a forked process, which must never return into the caller's code."""
    status = UNAVAILABLE
    try:
        status = body()
    except OSError as error:
        sys.stderr.write(f"this surrounding cannot be built here: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


def _outer_init(surrounding: Surrounding, command: Sequence[str]) -> int:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    _mount_proc()
    if surrounding.user or surrounding.calls is not None:
        _make_python_reachable()  # as it is in an image
    if surrounding.container:
        _container_devices()
        _start_loopback()
    _mount_tmpfs("/dev/shm", f"size={'64m' if surrounding.container else '4g'},mode=1777")
    for folder in ("/tmp", "/var/tmp"):
        _mount_tmpfs(folder, "size=4g,mode=1777")
    linux.set_mount_flags("/", linux.MS_RDONLY, recursive=False)
    if surrounding.own_users:
        return _with_own_users(surrounding, command)
    if surrounding.container:
        _hide_system()
    return _init(surrounding, command)


def _with_own_users(surrounding: Surrounding, command: Sequence[str]) -> int:
    """Run the command in a user namespace of an ordinary user, as a rootless engine does."""
    go_read, go_write = os.pipe()
    kinds = linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC
    pid = linux.clone(kinds | linux.CLONE_NEWUTS | linux.CLONE_NEWNET)
    if pid == 0:

        def inside() -> int:
            os.close(go_write)
            os.read(go_read, 1)
            _become(0)
            _mount_proc()
            _start_loopback()
            _mount_tmpfs("/dev/shm", "size=64m,mode=1777")
            for folder in ("/tmp", "/var/tmp"):
                _mount_tmpfs(folder, "size=4g,mode=1777")
            _hide_system()
            return _init(surrounding, command)

        _guarded(inside)
    os.close(go_read)
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text(f"0 {ORDINARY_USER} 1\n1 100000 65536\n")
    os.close(go_write)
    return _reap(pid)


def _enter(surrounding: Surrounding, command: Sequence[str], bounds: Bounds) -> int:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    bounds.join()
    kinds = linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    _unshare(kinds | (linux.CLONE_NEWNET if surrounding.container else 0))
    pid = os.fork()
    if pid == 0:
        _guarded(lambda: _outer_init(surrounding, command))
    return _shell_status(os.waitpid(pid, 0)[1])


def enter(name: str, command: Sequence[str]) -> int:
    """Run a command in a surrounding and return its exit status.

    Raises:
        UnavailableError: The surrounding cannot be built here.
    """
    if os.geteuid() != 0 or not linux.SUPPORTED:
        raise UnavailableError("surroundings are built by root, on x86_64 or aarch64")
    bounds = Bounds()
    try:
        os.environ[MEMORY_FILE] = str(bounds.memory_file)
        pid = os.fork()
        if pid == 0:
            _guarded(lambda: _enter(SURROUNDINGS[name], command, bounds))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.kill(pid, signal.SIGKILL))
        return _shell_status(os.waitpid(pid, 0)[1])
    finally:
        bounds.remove()


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 3 or arguments[0] not in SURROUNDINGS or arguments[1] != "--":
        sys.stderr.write(f"usage: NAME -- command...; names: {', '.join(SURROUNDINGS)}\n")
        return 2
    try:
        return enter(arguments[0], arguments[2:])
    except UnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
