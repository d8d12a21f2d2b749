"""System call filters of the surroundings: what container engines refuse, and old kernels lack.

The profiles of the engines are allow lists. Here stands what they leave out, of the calls that a
sandbox could want; a call that this list forgets makes a surrounding weaker than the real one.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from swift_thyme.sandbox import linux

_COLUMN = 1 if linux.MACHINE == "x86_64" else 2
_AUDIT_ARCH = 0xC000003E if linux.MACHINE == "x86_64" else 0xC00000B7
_LOAD, _JEQ, _JGE, _AND, _RET = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NAMESPACES = 0x7E020000
"""The namespace flags of clone."""

# name, number on x86_64, number on aarch64 (-1: does not exist there)
_NUMBERS = """
acct 163 89; add_key 248 217; bpf 321 280; clock_settime 227 112; clone3 435 435;
delete_module 176 106; fanotify_init 300 262; finit_module 313 273; fsconfig 431 431;
fsmount 432 432; fsopen 430 430; fspick 433 433; get_mempolicy 239 236; init_module 175 105;
io_uring_enter 426 426; io_uring_register 427 427; io_uring_setup 425 425; ioperm 173 -1;
iopl 172 -1; kcmp 312 272; kexec_file_load 320 294; kexec_load 246 104; keyctl 250 219;
landlock_add_rule 445 445; landlock_create_ruleset 444 444; landlock_restrict_self 446 446;
lookup_dcookie 212 18; mbind 237 235; memfd_create 319 279; migrate_pages 256 238; mount 165 40;
mount_setattr 442 442; move_mount 429 429; move_pages 279 239; open_by_handle_at 304 265;
open_tree 428 428; openat2 437 437; perf_event_open 298 241; pidfd_getfd 438 438;
pidfd_open 434 434; pivot_root 155 41; process_madvise 440 440; process_vm_readv 310 270;
process_vm_writev 311 271; ptrace 101 117; quotactl 179 60; quotactl_fd 443 443; reboot 169 142;
request_key 249 218; set_mempolicy 238 237; setdomainname 171 162; sethostname 170 161;
setns 308 268; settimeofday 164 170; swapoff 168 225; swapon 167 224; syslog 103 116;
umount2 166 39; unshare 272 97; userfaultfd 323 282; vhangup 153 58; clone 56 220; madvise 28 233;
"""
_NUMBER = {
    row[0]: int(row[_COLUMN])
    for row in (entry.split() for entry in _NUMBERS.replace("\n", " ").split(";") if entry.strip())
}


@dataclass(frozen=True)
class Refusals:
    """What a filter refuses; everything else is allowed."""

    forbidden: tuple[str, ...] = ()
    """Calls that fail with EPERM."""
    missing: tuple[str, ...] = ()
    """Calls that fail with ENOSYS."""
    missing_from: int | None = None
    """All calls from this number on fail with ENOSYS."""
    namespaces: bool = True
    """Whether clone can make namespaces."""
    missing_advice: tuple[int, ...] = ()
    """Advice of madvise that the kernel does not know."""


_ENGINES = tuple(
    """
acct add_key bpf clock_settime delete_module fanotify_init finit_module get_mempolicy init_module
io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
lookup_dcookie mbind migrate_pages move_pages open_by_handle_at perf_event_open process_madvise
quotactl quotactl_fd reboot request_key set_mempolicy setdomainname sethostname setns settimeofday
swapoff swapon syslog userfaultfd vhangup
""".split()
)
_MOUNTING = tuple(
    """
fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pidfd_getfd pivot_root
umount2 unshare
""".split()
)
_LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")

CONTAINER_CALLS = Refusals((*_ENGINES, *_MOUNTING, "keyctl"), ("clone3",), namespaces=False)
"""Docker's and containerd's profile for a container without CAP_SYS_ADMIN."""
PODMAN_CALLS = Refusals((*_ENGINES, "process_vm_readv", "process_vm_writev", "ptrace"))
"""Podman's profile, which lets a container make namespaces and mounts of its own."""
GVISOR_CALLS = Refusals(
    CONTAINER_CALLS.forbidden,
    ("clone3", *_LANDLOCK, "pidfd_open", "memfd_create", "openat2"),
    namespaces=False,
)
OLD_KERNEL_CALLS = Refusals((), ("clone3",), missing_from=436, missing_advice=(22, 23, 25))
"""Linux 5.4, whose last call has the number 435, for libraries that do not count on clone3."""


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse(number: int) -> bytes:
    return _op(_RET, _ERRNO | number)


def _for_call(name: str, body: bytes) -> bytes:
    """Run `body`, which must return, for one call."""
    return _op(_JEQ, _NUMBER[name], 0, len(body) // 8) + body if _NUMBER[name] >= 0 else b""


def build_program(refusals: Refusals) -> bytes:
    """Return the BPF program of a filter, for `linux.install_seccomp`."""
    # Another architecture's numbers would mean other calls.
    program = _op(_LOAD, 4) + _op(_JEQ, _AUDIT_ARCH, 1, 0) + _refuse(errno.ENOSYS) + _op(_LOAD, 0)
    for name in refusals.forbidden:
        program += _for_call(name, _refuse(errno.EPERM))
    for name in refusals.missing:
        program += _for_call(name, _refuse(errno.ENOSYS))
    if refusals.missing_from is not None:
        program += _op(_JGE, refusals.missing_from, 0, 1) + _refuse(errno.ENOSYS)
    if not refusals.namespaces:
        flags = _op(_LOAD, 16) + _op(_AND, _NAMESPACES) + _op(_JEQ, 0, 0, 1)
        program += _for_call("clone", flags + _op(_RET, _ALLOW) + _refuse(errno.EPERM))
    if refusals.missing_advice:
        body = _op(_LOAD, 16 + 8 * 2)
        for advice in refusals.missing_advice:
            body += _op(_JEQ, advice, 0, 1) + _refuse(errno.EINVAL)
        program += _for_call("madvise", body + _op(_RET, _ALLOW))
    return program + _op(_RET, _ALLOW)
