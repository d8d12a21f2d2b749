"""A seccomp filter: the system calls that image code needs, and nothing else.

The filter is an allow list. Starting other programs, sockets, mounts, namespaces, tracing, memory
of other processes, keys, io_uring, System V and POSIX queues, anonymous memory files and changes
to other processes are refused with EPERM, calls newer than the list with ENOSYS, which libraries
know how to handle. A call for another architecture kills the process.

A process that is frozen between two blocks must neither wake up nor end. So everything is refused
that lets the kernel send SIGCONT or SIGKILL later: timers with a signal of choice, leases, children
with another exit signal than SIGCHLD, and process groups, whose stopped members the kernel wakes
when the group is orphaned.
"""

from __future__ import annotations

import errno
import functools
import signal
import struct
from collections.abc import Iterable

from swift_thyme.sandbox import linux

__all__ = ["build_descendant_signal_filter", "build_filter", "build_self_signal_filter"]

# name, number on x86_64, number on aarch64 (-1: does not exist there)
_ALLOWED = """
read 0 63; write 1 64; open 2 -1; close 3 57; stat 4 -1; fstat 5 80; lstat 6 -1; poll 7 -1;
lseek 8 62; mmap 9 222; mprotect 10 226; munmap 11 215; brk 12 214; rt_sigaction 13 134;
rt_sigprocmask 14 135; rt_sigreturn 15 139; pread64 17 67; pwrite64 18 68; readv 19 65;
writev 20 66; access 21 -1; pipe 22 -1; select 23 -1; sched_yield 24 124; mremap 25 216;
msync 26 227; mincore 27 232; madvise 28 233; dup 32 23; dup2 33 -1; pause 34 -1;
nanosleep 35 101; getitimer 36 102; alarm 37 -1; setitimer 38 103; getpid 39 172;
sendfile 40 71; sendto 44 206; recvfrom 45 207; sendmsg 46 211; recvmsg 47 212;
shutdown 48 210; getsockname 51 204; getpeername 52 205; getsockopt 55 209;
fork 57 -1; vfork 58 -1; exit 60 93; wait4 61 260; uname 63 160; flock 73 32; fsync 74 82;
fdatasync 75 83; truncate 76 45; ftruncate 77 46; getdents 78 -1; getcwd 79 17; chdir 80 49;
fchdir 81 50; rename 82 -1; mkdir 83 -1; rmdir 84 -1; creat 85 -1; link 86 -1; unlink 87 -1;
symlink 88 -1; readlink 89 -1; chmod 90 -1; fchmod 91 52; chown 92 -1; fchown 93 55;
lchown 94 -1; umask 95 166; gettimeofday 96 169; getrlimit 97 163; getrusage 98 165;
sysinfo 99 179; times 100 153; getuid 102 174; getgid 104 176; geteuid 107 175;
getegid 108 177; getppid 110 173; getpgrp 111 -1;
getgroups 115 158; getresuid 118 148; getresgid 120 150; getpgid 121 155; getsid 124 156;
capget 125 90; rt_sigpending 127 136; rt_sigtimedwait 128 137; rt_sigsuspend 130 133;
sigaltstack 131 132; utime 132 -1; statfs 137 43; fstatfs 138 44; getpriority 140 141;
sched_getparam 143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125;
sched_get_priority_min 147 126; sched_rr_get_interval 148 127; mlock 149 228; munlock 150 229;
arch_prctl 158 -1; gettid 186 178; readahead 187 213; getxattr 191 8; lgetxattr 192 9;
fgetxattr 193 10; listxattr 194 11; llistxattr 195 12; flistxattr 196 13; time 201 -1;
futex 202 98; sched_getaffinity 204 123; epoll_create 213 -1; getdents64 217 61;
set_tid_address 218 96; restart_syscall 219 128; fadvise64 221 223;
clock_gettime 228 113; clock_getres 229 114; clock_nanosleep 230 115; exit_group 231 94;
epoll_wait 232 -1; epoll_ctl 233 21; utimes 235 -1; get_mempolicy 239 236; waitid 247 95;
openat 257 56; mkdirat 258 34; fchownat 260 54; futimesat 261 -1; newfstatat 262 79;
unlinkat 263 35; renameat 264 38; linkat 265 37; symlinkat 266 36; readlinkat 267 78;
fchmodat 268 53; faccessat 269 48; pselect6 270 72; ppoll 271 73; set_robust_list 273 99;
get_robust_list 274 100; utimensat 280 88; epoll_pwait 281 22; signalfd 282 -1;
timerfd_create 283 85; eventfd 284 -1; fallocate 285 47; timerfd_settime 286 86;
timerfd_gettime 287 87; signalfd4 289 74; eventfd2 290 19; epoll_create1 291 20; dup3 292 24;
pipe2 293 59; preadv 295 69; pwritev 296 70; recvmmsg 299 243; sendmmsg 307 269;
getcpu 309 168; renameat2 316 276; getrandom 318 278; membarrier 324 283;
copy_file_range 326 285; preadv2 327 286; pwritev2 328 287; pkey_mprotect 329 288;
pkey_alloc 330 289; pkey_free 331 290; statx 332 291; rseq 334 293; close_range 436 436;
openat2 437 437; faccessat2 439 439; epoll_pwait2 441 441; landlock_create_ruleset 444 444;
landlock_add_rule 445 445; landlock_restrict_self 446 446; futex_waitv 449 449;
sched_getattr 315 275; sync_file_range 277 84;
"""
_ARGUMENT_CHECKED = """
clone 56 220; ioctl 16 29; prctl 157 167; prlimit64 302 261; setrlimit 160 164; fcntl 72 25;
socketpair 53 199; setsockopt 54 208; sched_setaffinity 203 122; setpriority 141 140;
seccomp 317 277; kill 62 129; tkill 200 130; tgkill 234 131; rt_sigqueueinfo 129 138;
rt_tgsigqueueinfo 297 240;
"""

_METADATA = (
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
)

_COLUMN = 1 if linux.MACHINE == "x86_64" else 2
_AUDIT_ARCH = 0xC000003E if linux.MACHINE == "x86_64" else 0xC00000B7

_RET_ALLOW = 0x7FFF0000
_RET_KILL = 0x80000000
_RET_ERRNO = 0x00050000

_LD_W_ABS, _JEQ, _JGT, _JGE, _AND, _RET = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06
_FIRST_MODERN_CALL = 424
"""From here on numbers are the same on all architectures, and callers expect ENOSYS."""

_NAMESPACE_FLAGS = 0x00000080 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000
_NAMESPACE_FLAGS |= 0x40000000 | linux.CLONE_NEWNS
_EXIT_SIGNAL = 0xFF

# What isatty, non-blocking pipes and FIONREAD need.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# Names, no transparent huge pages, timer slack and reading: nothing that loosens anything.
_PRCTLS = (3, 7, 15, 16, 21, 23, 27, 29, 30, 39, 41, 42, 47, 0x53564D41)
# Not dumpable, fewer capabilities, no new ones: what a process does at its start that a keeper
# makes.
_START_PRCTLS = (4, 24, 38)
_CAPSET = (126, 91)
# F_SETOWN and F_SETOWN_EX direct signals at other processes; F_SETSIG, F_SETLEASE and F_NOTIFY let
# the kernel send any signal later; F_SETPIPE_SZ takes of the memory that all pipes of a user share.
_FCNTLS_REFUSED = (8, 15, 10, 1024, 1026, 1031)
# SO_SNDBUF, SO_RCVBUF and those that are for the administrator: memory that counts nowhere else.
_SOCKET_BUFFERS = (7, 8, 32, 33)
_AF_UNIX = 1


def _numbers(table: str) -> dict[str, int]:
    rows = (entry.split() for entry in table.replace("\n", " ").split(";") if entry.strip())
    return {row[0]: int(row[_COLUMN]) for row in rows if int(row[_COLUMN]) >= 0}


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value & 0xFFFFFFFF)


def _ret(value: int) -> bytes:
    return _op(_RET, value)


def _refuse(number: int) -> bytes:
    return _ret(_RET_ERRNO | number)


def _load_argument(index: int) -> bytes:
    """Load the low 32 bits of a system call argument (both machines are little-endian)."""
    return _op(_LD_W_ABS, 16 + 8 * index)


def _for_call(number: int, body: bytes) -> bytes:
    """Run `body`, which must return, for one system call; go on after it for the others."""
    return _op(_JEQ, number, 0, len(body) // 8) + body


def _one_of(index: int, values: Iterable[int], error: int = errno.EPERM) -> bytes:
    tests = b"".join(_op(_JEQ, v, 0, 1) + _ret(_RET_ALLOW) for v in values)
    return _load_argument(index) + tests + _refuse(error)


def _none_of(index: int, values: Iterable[int]) -> bytes:
    tests = b"".join(_op(_JEQ, v, 0, 1) + _refuse(errno.EPERM) for v in values)
    return _load_argument(index) + tests + _ret(_RET_ALLOW)


def _both_zero(first: int, second: int) -> bytes:
    program = b""
    for index in (first, second):
        program += _load_argument(index) + _op(_JEQ, 0, 1, 0) + _refuse(errno.EPERM)
    return program + _ret(_RET_ALLOW)


def _prologue() -> bytes:
    program = _op(_LD_W_ABS, 4) + _op(_JEQ, _AUDIT_ARCH, 1, 0) + _ret(_RET_KILL)
    program += _op(_LD_W_ABS, 0)
    # The x32 calling convention has the same architecture value and other numbers.
    return program + _op(_JGE, 0x40000000, 0, 1) + _ret(_RET_KILL)


@functools.cache
def build_filter(allow_fork: bool, keep_metadata: bool, for_keeper: bool = False) -> bytes:
    """Return the BPF program for code of the model.

    Args:
        allow_fork: Whether new processes may be made (threads always may).
        keep_metadata: Whether the process runs outside a mount namespace, where the copies of the
            input images, and the host's libraries unless it has a user id of its own, belong to its
            user. Landlock does not guard modes, owners and times of files, so changing them then
            does nothing and reports success, which is all that `shutil.copy` asks of it.
        for_keeper: Whether it is for the process that makes the others, which confine themselves.
    """
    allowed = _numbers(_ALLOWED)
    ignored = [allowed.pop(name) for name in _METADATA if keep_metadata and name in allowed]
    special = _numbers(_ARGUMENT_CHECKED)
    if not allow_fork:
        allowed = {k: v for k, v in allowed.items() if k not in ("fork", "vfork")}
    program = _prologue()
    exit_signal = b"".join(_op(_JEQ, v, 0, 1) + _ret(_RET_ALLOW) for v in (0, signal.SIGCHLD))
    no_namespace = (
        _load_argument(0)
        + _op(_AND, _NAMESPACE_FLAGS if allow_fork else linux.CLONE_THREAD)
        + _op(_JEQ, 0 if allow_fork else linux.CLONE_THREAD, 1, 0)
        + _refuse(errno.EPERM)
        + _load_argument(0)
        + _op(_AND, _EXIT_SIGNAL)
        + exit_signal
        + _refuse(errno.EPERM)
    )
    for number in ignored:
        program += _for_call(number, _refuse(0))
    program += _for_call(special["clone"], no_namespace)
    program += _for_call(special["ioctl"], _one_of(1, _IOCTLS, errno.ENOTTY))
    prctls = (*_PRCTLS, *_START_PRCTLS) if for_keeper else _PRCTLS
    program += _for_call(special["prctl"], _one_of(0, prctls))
    program += _for_call(special["fcntl"], _none_of(1, _FCNTLS_REFUSED))
    program += _for_call(special["socketpair"], _one_of(0, (_AF_UNIX,)))
    # Only itself: the same user may own the trainer, whose limits must stay as they are.
    program += _for_call(special["prlimit64"], _one_of(0, (0,)))
    program += _for_call(special["sched_setaffinity"], _one_of(0, (0,)))
    # PRIO_USER would be everything of this user.
    program += _for_call(special["setpriority"], _both_zero(0, 1))
    ignored_option = b"".join(_op(_JEQ, v, 0, 1) + _refuse(0) for v in _SOCKET_BUFFERS)
    program += _for_call(
        special["setsockopt"], _load_argument(2) + ignored_option + _ret(_RET_ALLOW)
    )
    # SECCOMP_SET_MODE_FILTER: a filter can only be made narrower.
    program += _for_call(special["seccomp"], _one_of(0, (1,)))
    simple = {*allowed.values()}
    if for_keeper:
        simple.add(_CAPSET[_COLUMN - 1])
    for name in ("setrlimit", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        if name in special:
            simple.add(special[name])
    for start, end in _ranges(sorted(simple)):
        program += _op(_JGT, end, 3, 0) + _op(_JGE, start, 0, 1)
        program += _ret(_RET_ALLOW) + _default_refusal(start)
    return program + _refuse(errno.ENOSYS)


def build_self_signal_filter(process_id: int) -> bytes:
    """Return a BPF program under which only `process_id` can be signalled.

    For hosts without a pid namespace: there the same user may own processes outside.
    """
    special = _numbers(_ARGUMENT_CHECKED)
    program = _prologue()
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        program += _for_call(special[name], _one_of(0, (process_id,)))
    program += _for_call(special["tkill"], _refuse(errno.EPERM))
    return program + _ret(_RET_ALLOW)


def _default_refusal(number: int) -> bytes:
    return _refuse(errno.ENOSYS if number > _FIRST_MODERN_CALL else errno.EPERM)


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def build_descendant_signal_filter(process_id: int) -> bytes:
    """Return a BPF program under which only `process_id` and later processes can be signalled.

    For pid namespaces where Landlock does not guard the process that holds the state from before a
    block: process ids count up there, so everything that a block makes has a higher one than its
    own process, and everything that it must not touch a lower one. 0 and negative numbers mean
    groups, in which others may be.
    """
    special = _numbers(_ARGUMENT_CHECKED)
    program = _prologue()
    refused = _refuse(errno.EPERM)
    body = _load_argument(0) + _op(_JGE, 0x80000000, 0, 1) + refused
    body += _op(_JGE, process_id, 1, 0) + refused + _ret(_RET_ALLOW)
    for name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        program += _for_call(special[name], body)
    return program + _ret(_RET_ALLOW)
