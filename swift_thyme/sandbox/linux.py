"""The few Linux calls that Python's standard library lacks, through ctypes.

Every function raises `OSError` with the kernel's errno. Numbers are those of the kernel's own
headers for x86_64 and aarch64; on another machine `SUPPORTED` is false and the layers that need
these calls are reported as missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
import tempfile
from collections.abc import Iterator

__all__ = ["SUPPORTED", "nameless_file"]

MACHINE = platform.machine()
SUPPORTED = MACHINE in ("x86_64", "aarch64") and struct.calcsize("P") == 8

_X86 = MACHINE == "x86_64"
_SYS_CLONE = 56 if _X86 else 220
_SYS_PIVOT_ROOT = 155 if _X86 else 41
_SYS_CAPSET = 126 if _X86 else 91
_SYS_SECCOMP = 317 if _X86 else 277
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE = 444
_SYS_LANDLOCK_ADD = 445
_SYS_LANDLOCK_RESTRICT = 446

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWCGROUP = 0x02000000
CLONE_THREAD = 0x00010000
CLONE_PARENT = 0x00008000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
AT_RECURSIVE = 0x8000
AT_FDCWD = -100

# Flags of a mount that statvfs(2) and mount(2) give the same numbers.
_KEPT_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | 8 | 1024 | 2048

_MAP_FIXED = 0x10
_MAP_FIXED_NOREPLACE = 0x100000
_MAP_FAILED = 2**64 - 1

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_SET_VMA = 0x53564D41

# PyDLL keeps the GIL: a process that is cloned in the middle of a call must still own it.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *values), what)


def prctl(option: int, *arguments: int) -> None:
    """Set a property of this process, with up to four numbers (prctl)."""
    values = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(ctypes.c_int(option), *values), f"prctl({option})")


def align_memory(size: int) -> None:
    """Let new memory start at a multiple of `size`, so that large arrays are whole huge pages."""
    if not hasattr(_libc, "sbrk"):
        return
    _libc.sbrk.restype = ctypes.c_size_t
    _libc.sbrk(ctypes.c_ssize_t(-_libc.sbrk(ctypes.c_ssize_t(0)) % size))
    # Mappings are placed below each other, the next one right below what this one lies below.
    probe = 32 * size + mmap.PAGESIZE
    lower = _map_nothing(0, probe)
    if lower == _MAP_FAILED:
        return
    _libc.munmap(ctypes.c_size_t(lower), ctypes.c_size_t(probe))
    gap = (lower + probe) % size
    if gap:
        _map_nothing(lower + probe - gap, gap)


def _map_nothing(address: int, size: int) -> int:
    """Reserve addresses; a place that is taken by then is left alone."""
    _libc.mmap.restype = ctypes.c_size_t
    values = (ctypes.c_size_t(address), ctypes.c_size_t(size))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_MAP_FIXED_NOREPLACE if address else 0)
    return int(_libc.mmap(*values, 0, flags, -1, ctypes.c_long(0)))


@contextlib.contextmanager
def map_aligned(descriptor: int, size: int, alignment: int) -> Iterator[tuple[int, memoryview]]:
    """Map a file for reading at a multiple of `alignment`; give its address and its bytes.

    Slices of the bytes must not outlive the context.
    """
    reserved = _map_nothing(0, size + alignment)
    if reserved == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"no {size} bytes of address space are left")
    address = reserved + -reserved % alignment
    try:
        flags = mmap.MAP_SHARED | _MAP_FIXED
        where = (ctypes.c_size_t(address), ctypes.c_size_t(size), mmap.PROT_READ, flags)
        if int(_libc.mmap(*where, descriptor, ctypes.c_long(0))) != address:
            raise OSError(ctypes.get_errno(), "mmap of a file")
        yield address, memoryview((ctypes.c_char * size).from_address(address)).cast("B")
    finally:
        _libc.munmap(ctypes.c_size_t(reserved), ctypes.c_size_t(size + alignment))


def collapse(address: int, size: int) -> bool:
    """Make huge pages of a mapping (madvise, since Linux 6.1); tell whether it was done."""
    advice = 25  # MADV_COLLAPSE
    return not _libc.madvise(ctypes.c_size_t(address), ctypes.c_size_t(size), advice)


def own_pages(address: int, size: int) -> None:
    """Copy now what a later write to these pages would copy (madvise, since Linux 5.14)."""
    advice = 23  # MADV_POPULATE_WRITE
    _libc.madvise(ctypes.c_size_t(address), ctypes.c_size_t(size), advice)


def fork() -> int:
    """Fork as the C library does, which does not tell Python; for a process with one thread."""
    return _checked(_libc.fork(), "fork")


def clone(flags: int) -> int:
    """Fork with namespace flags; return 0 in the child and the child's process id in the parent.

    Only for a process with one thread: Python's own fork hooks are called around it.
    """
    sigchld = 17
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = int(_libc.syscall(ctypes.c_long(_SYS_CLONE), ctypes.c_long(flags | sigchld), 0, 0, 0, 0))
    number = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system, or change a mount."""
    _checked(
        _libc.mount(
            source.encode(),
            target.encode(),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            None if data is None else data.encode(),
        ),
        f"mount {kind or 'bind'} on {target}",
    )


def umount_detached(target: str) -> None:
    """Detach a mount; it lives on for those who hold a descriptor in it."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make another folder the root of this mount namespace."""
    _syscall(
        "pivot_root",
        _SYS_PIVOT_ROOT,
        ctypes.c_char_p(new_root.encode()),
        ctypes.c_char_p(put_old.encode()),
    )


def set_mount_flags(target: str, flags: int, recursive: bool = True) -> None:
    """Add MOUNT_ATTR flags (same values as MS_RDONLY, MS_NOSUID, MS_NODEV) to a mount tree."""
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)
    try:
        _syscall(
            f"mount_setattr {target}",
            _SYS_MOUNT_SETATTR,
            AT_FDCWD,
            ctypes.c_char_p(target.encode()),
            AT_RECURSIVE if recursive else 0,
            ctypes.c_char_p(attributes),
            len(attributes),
        )
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        # Kernels before 5.12, and containers that do not know the call, change mounts one by one.
        for point in _mounts_beneath(target) if recursive else [target]:
            _remount(point, flags)


def _mounts_beneath(target: str) -> list[str]:
    """List the mount points at and beneath a path, by /proc."""
    found = [target]
    with open("/proc/self/mountinfo") as file:
        for line in file:
            point = line.split()[4].encode().decode("unicode_escape")
            if point.startswith(f"{target.rstrip('/')}/"):
                found.append(point)
    return found


def _remount(point: str, flags: int) -> None:
    """Add flags to one mount; those that it has are kept, as the kernel wants it."""
    kept = os.statvfs(point).f_flag & _KEPT_FLAGS
    mount("none", point, None, MS_REMOUNT | MS_BIND | flags | kept)


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Free a range of a file, which reads as zeros from then on (fallocate)."""
    keep_size, punch = 1, 2
    values = (ctypes.c_long(offset), ctypes.c_long(length))
    _checked(_libc.fallocate(descriptor, keep_size | punch, *values), "fallocate")


def nameless_file(name: str) -> int:
    """Return the descriptor of a new file that is gone when nobody has it open any more.

    Args:
        name: What to call it in the list of open files.

    Raises:
        OSError: There is neither memory nor a folder for it.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError:
        # Some containers refuse the call.
        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:
            break  # past the last capability, or none left to drop with
    try:
        prctl(PR_CAP_AMBIENT, 4)  # PR_CAP_AMBIENT_CLEAR_ALL
    except OSError:
        pass  # kernels before 4.3 have no ambient set
    header = struct.pack("Ii", 0x20080522, 0)
    _syscall("capset", _SYS_CAPSET, ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))


def install_seccomp(program: bytes) -> None:
    """Install a BPF program (an array of struct sock_filter) for this process and its children."""
    count = len(program) // 8
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", count, ctypes.addressof(buffer)))
    _syscall("seccomp", _SYS_SECCOMP, 1, 0, fprog)


def landlock_abi() -> int:
    """Return the Landlock version of the kernel.

    Raises:
        OSError: Landlock is not built in or not switched on.
    """
    return _syscall("landlock", _SYS_LANDLOCK_CREATE, None, 0, 1)


def landlock_create(handled_fs: int, handled_net: int, scoped: int, abi: int) -> int:
    """Return the descriptor of a new ruleset."""
    fields = [handled_fs, handled_net, scoped][: 1 if abi < 4 else 2 if abi < 6 else 3]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    return _syscall(
        "landlock_create_ruleset",
        _SYS_LANDLOCK_CREATE,
        ctypes.c_char_p(attributes),
        len(attributes),
        0,
    )


def landlock_allow_path(ruleset: int, descriptor: int, access: int) -> None:
    """Add the rule that `access` is allowed beneath the file that `descriptor` stands for."""
    rule = struct.pack("=Qi", access, descriptor)
    _syscall("landlock_add_rule", _SYS_LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), 0)


def landlock_restrict(ruleset: int) -> None:
    """Confine this process and its children to the ruleset; needs no_new_privs."""
    _syscall("landlock_restrict_self", _SYS_LANDLOCK_RESTRICT, ruleset, 0)
