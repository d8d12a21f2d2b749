"""The surroundings themselves: each lacks what its model lacks, and has what that has."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.surroundings import (
    DOCKER_CAPABILITIES,
    PODMAN_CAPABILITIES,
    ROOT,
    SURROUNDINGS,
    UnavailableError,
    command_in,
    environment,
    run,
)

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="calls are made by number")

PROGRAM = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *values):
    result = libc.syscall(number, *map(ctypes.c_long, values))
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def isolated(act):
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.write(write_end, act().encode())
        os._exit(0)
    os.wait()
    # A clone that works says so twice.
    return os.read(read_end, 99).decode().replace("donedone", "done")
def writes(path):
    try: os.close(os.open(path, os.O_WRONLY))
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "user": os.getuid(),
    "capabilities": int(status["CapBnd"], 16),
    "effective": int(status["CapEff"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "users": open("/proc/self/uid_map").read().split(),
    "shared_memory_mib": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize >> 20,
    "unshare": isolated(lambda: call(272, 0x10000000)),
    "clone": isolated(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0)),
    "mount": call(165, 0, 0, 0, 0, 0),
    "keyctl": call(250, 0, -3, 0),
    "bpf": call(321, 99, 0, 0),
    "clone3": call(435, 0, 0),
    "pidfd_open": call(434, os.getpid(), 0),
    "memfd_create": call(319, ctypes.addressof(ctypes.create_string_buffer(b"x")), 0),
    "openat2": call(437, -1, 0, 0, 0),
    "close_range": call(436, 900, 901, 0),
    "mount_setattr": call(442, -1, 0, 0, 0, 0),
    "landlock": call(444, 0, 0, 1),
    "settings of the kernel": writes("/proc/sys/vm/swappiness"),
    "root of the host": writes("/etc/passwd"),
    "masked": os.stat("/proc/interrupts").st_rdev == os.stat("/dev/null").st_rdev,
    "loopback": open("/proc/net/dev").read().count(":"),
}))
"""
ROOT_ON_HOST = {"user": 0, "unshare": "done", "landlock": "done", "pidfd_open": "done"}
CONTAINER = {"shared_memory_mib": 64, "masked": True, "processes": 2, "loopback": 1}
REFUSED = {"unshare": "EPERM", "clone": "EPERM", "mount": "EPERM", "keyctl": "EPERM"}
REFUSED |= {"bpf": "EPERM", "clone3": "ENOSYS", "mount_setattr": "EPERM", "openat2": "EINVAL"}
FACTS: dict[str, dict[str, Any]] = {
    "host-root": ROOT_ON_HOST | {"settings of the kernel": "done", "masked": False},
    "host-user": {"user": 1000, "unshare": "done", "effective": 0, "landlock": "done"},
    "docker-root": CONTAINER | REFUSED | {"user": 0, "settings of the kernel": "EROFS"},
    "docker-user": CONTAINER | REFUSED | {"user": 1000, "effective": 0},
    "podman-rootless": CONTAINER | {"user": 0, "unshare": "done", "clone": "done", "bpf": "EPERM"},
    "kubernetes-restricted": CONTAINER
    | REFUSED
    | {"user": 1000, "capabilities": 0, "no_new_privileges": 1},
    "gvisor": CONTAINER
    | REFUSED
    | dict.fromkeys(("landlock", "pidfd_open", "memfd_create", "openat2"), "ENOSYS"),
    "old-kernel": {"unshare": "done", "pidfd_open": "done", "memfd_create": "done"}
    | dict.fromkeys(("landlock", "openat2", "close_range", "mount_setattr"), "ENOSYS"),
}


def in_surrounding(name: str, *command: str) -> str:
    try:
        done = run(name, command, 60)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stderr
    return done.stdout


def bits(numbers: frozenset[int]) -> int:
    return sum(1 << number for number in numbers)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_surrounding_is_like_its_model(name: str) -> None:
    found = json.loads(in_surrounding(name, sys.executable, "-c", PROGRAM))
    assert found["root of the host"] in ("EROFS", "EACCES")
    assert {key: found[key] for key in FACTS[name]} == FACTS[name]
    if name.startswith("docker"):
        assert found["capabilities"] == bits(DOCKER_CAPABILITIES)
    if name == "podman-rootless":
        assert found["effective"] == bits(PODMAN_CAPABILITIES)
        assert found["users"] == ["0", "1000", "1", "1", "100000", "65536"]


def test_the_status_of_the_command_comes_back() -> None:
    in_surrounding("docker-user", "true")
    assert run("docker-user", ["sh", "-c", "exit 7"]).returncode == 7
    assert run("host-root", ["sh", "-c", "kill -9 $$"]).returncode == 128 + 9


def test_a_surrounding_that_is_ended_takes_everything_along() -> None:
    in_surrounding("host-root", "true")
    command = command_in("host-root", ["sh", "-c", "echo started; sleep 600 & sleep 600"])
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        group = Path(f"/sys/fs/cgroup/pids/thyme-tests-{process.pid}")
        if not group.exists():
            group = Path(f"/sys/fs/cgroup/thyme-tests-{process.pid}")
        assert len((group / "cgroup.procs").read_text().split()) >= 3
        process.terminate()
        # The pipe ends with the last of its writers.
        assert process.stdout.read() == b""
    assert not group.exists()


def test_a_program_that_signals_everybody_reaches_its_own_tree_alone() -> None:
    in_surrounding("host-root", "true")
    program = """
import os, time
child = os.fork()
if child == 0: time.sleep(600)
os.kill(-1, 9)
print(os.wait() == (child, 9))
"""
    assert in_surrounding("host-root", sys.executable, "-c", program) == "True\n"
