"""The memory of a warm worker as a private mapping of a sealed file, which makes forks cheap.

A fork copies the page table of every anonymous page of its parent, over 30,000 of them once NumPy,
OpenCV, SciPy and SymPy are loaded, and its exit takes each one down again. Pages that are mapped
from a file need neither: the kernel maps them again when they are used. So a worker that has
loaded its libraries writes its memory to a file in memory, seals that, and maps it privately over
itself; from then on a process of a session pays for the pages it uses and not for those it has.
The file is made of huge pages, of which a fork and an exit take many small ones in one step. Small
libraries move into it whole, which makes two mappings of the five or six that each consists of, and
spares the forks of several workers a queue at the locks of the files that they share.

Nothing may change between the copy and the mapping, and an interpreter changes memory with every
step that it makes. The system calls are therefore made in a row by a few machine instructions.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import resource
import struct
import sys
from collections.abc import Callable
from io import RawIOBase
from typing import NamedTuple

from swift_thyme.sandbox import linux

__all__ = ["freeze_memory", "written_ranges"]

# struct call { u64 number, arguments[6], expected; };
# int run(struct call *calls, u64 count): makes the calls, returns how many were not made because
# one before them, or they themselves, did not return what was expected.
_RUN_CALLS = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "4889fb"  # mov rbx, rdi
    "4989f4"  # mov r12, rsi
    "4d85e4"  # next: test r12, r12
    "742c"  # jz end
    "488b03"  # mov rax, [rbx]
    "488b7b08"  # mov rdi, [rbx + 8]
    "488b7310"  # mov rsi, [rbx + 16]
    "488b5318"  # mov rdx, [rbx + 24]
    "4c8b5320"  # mov r10, [rbx + 32]
    "4c8b4328"  # mov r8, [rbx + 40]
    "4c8b4b30"  # mov r9, [rbx + 48]
    "0f05"  # syscall
    "483b4338"  # cmp rax, [rbx + 56]
    "7509"  # jne end
    "4883c340"  # add rbx, 64
    "49ffcc"  # dec r12
    "ebcf"  # jmp next
    "4489e0"  # end: mov eax, r12d
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret
)
_SYS_MMAP, _SYS_PWRITE = 9, 18
_CODE = mmap.PROT_READ | mmap.PROT_EXEC
_CALL = struct.Struct("<8Q")
_SPECIAL = frozenset("dp wf dc io pf ss gd lo ht sh".split())
"""Flags in /proc/self/smaps of memory that a fork or the kernel treats in a way of its own."""
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+\s*(.*)")
_SEALS = 0x2 | 0x4 | 0x8  # F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_MAP_FIXED = 0x10
_MAX_REGIONS = 8192
_HUGE_PAGE = 2 << 20
_PAGES = range(0, _HUGE_PAGE, mmap.PAGESIZE)
_ZEROS = bytes(mmap.PAGESIZE)
_NAME = "thyme-libraries"
_SMALL_BYTES = 512 << 10
"""Largest part of a library that is moved unchanged: each worker has a copy, 33 MiB in all."""
_WORTH_A_HUGE_PAGE = 0.5
"""Share of a huge page that must hold something: the rest of it is memory spent for speed."""


class _Region(NamedTuple):
    start: int
    size: int
    protection: int


def freeze_memory(huge_pages: bool = True, libraries: bool = True) -> int:
    """Replace this process's private memory by a private mapping of a sealed file.

    Everything keeps its address and its contents. Only for a process with one thread.

    Returns:
        Bytes that were replaced; 0 on a machine that this is not made for, which costs speed only.

    Raises:
        OSError: The kernel refused half-way; the process cannot go on.
    """
    one_thread = sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    if linux.MACHINE != "x86_64" or not one_thread:
        return 0
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return 0  # writing more than is allowed would be deadly
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=access)
    except OSError:
        return 0  # a policy that allows no memory to be both written and run
    code.write(_RUN_CALLS)
    run = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64)(_address(code))
    table = mmap.mmap(-1, _MAX_REGIONS * 2 * _CALL.size)
    try:
        file = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return 0  # some containers refuse the call
    try:
        os.ftruncate(file, mmap.PAGESIZE)
        size = _freeze(run, table, file, _private_regions(_may_run(file), libraries))
        if huge_pages:
            _compact(file)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    finally:
        os.close(file)
        table.close()
    return size


def _may_run(file: int) -> bool:
    """Tell whether code in a file in memory may be run; a policy can forbid it."""
    access = mmap.PROT_READ | mmap.PROT_EXEC
    try:
        mmap.mmap(file, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=access).close()
    except OSError:
        return False
    return True


def _freeze(
    run: Callable[[int, int], int], table: mmap.mmap, file: int, regions: list[_Region]
) -> int:
    """Write the memory to the file and map it; return the bytes that were."""
    regions = regions[:_MAX_REGIONS]
    size = sum(region.size for region in regions)
    os.ftruncate(file, size + -size % _HUGE_PAGE)  # costs nothing: what is not written is a hole
    offset = 0
    for region in regions:
        source = (file, region.start, region.size, offset, 0, 0)
        table.write(_CALL.pack(_SYS_PWRITE, *source, region.size))
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        target = (region.start, region.size, region.protection, flags, file, offset)
        table.write(_CALL.pack(_SYS_MMAP, *target, region.start))
        offset += region.size
    left = run(_address(table), 2 * len(regions))
    if left % 2:
        raise OSError(f"the memory at {regions[-(left // 2) - 1].start:#x} could not be mapped")
    # A copy that failed, for want of memory, say, leaves the rest as it was.
    return sum(region.size for region in regions[: len(regions) - left // 2])


def _private_regions(with_code: bool, libraries: bool) -> list[_Region]:
    """List this process's private memory that differs from the disk, and small libraries.

    Args:
        with_code: Whether to list what may be run.
        libraries: Whether to list small libraries whole.
    """
    regions: list[_Region] = []
    region: _Region | None = None
    name = ""
    changed = False
    with open("/proc/self/smaps") as file:
        for line in file:
            header = _HEADER.match(line)
            if header:
                start, end, letters, name = header.groups()
                bits = [
                    bit for bit, letter in zip((1, 2, 4), letters, strict=False) if letter != "-"
                ]
                region = _Region(int(start, 16), int(end, 16) - int(start, 16), sum(bits))
                ours = name == "[heap]" or not name.startswith("[")
                if not ours or letters[3] == "s" or letters.startswith("rwx"):
                    region = None
                changed = False
            elif line.startswith("Anonymous:"):
                changed = line.split()[1] != "0"
            elif line.startswith("VmFlags:") and region is not None:
                library = (
                    libraries and ".so" in name and region.protection in (mmap.PROT_READ, _CODE)
                )
                if not changed and not (library and region.size <= _SMALL_BYTES):
                    continue
                if library and with_code:
                    # Of one kind, the parts of a library become one mapping. That its constants
                    # could be run, as they could in any library until 2018, helps nobody here.
                    region = region._replace(protection=_CODE)
                allowed = with_code or not region.protection & mmap.PROT_EXEC
                if allowed and not _SPECIAL.intersection(line.split()[1:]):
                    regions.append(region)
    return regions


def _compact(file: int) -> None:
    """Make huge pages of what is mostly in use; free the pages that hold nothing but zeros."""
    size = os.fstat(file).st_size
    if not size:
        return
    with linux.map_aligned(file, size, _HUGE_PAGE) as (address, view):
        for start in range(0, size, _HUGE_PAGE):
            chunk = view[start : start + _HUGE_PAGE]
            empty = [chunk[at : at + mmap.PAGESIZE] == _ZEROS for at in _PAGES]
            full = empty.count(False) >= _WORTH_A_HUGE_PAGE * len(empty)
            if full and linux.collapse(address + start, _HUGE_PAGE):
                continue
            for at, is_empty in zip(_PAGES, empty, strict=True):
                if is_empty:
                    linux.punch_hole(file, start + at, mmap.PAGESIZE)


def written_ranges() -> list[tuple[int, int]]:
    """List address and length of the frozen memory that this process has written to since.

    Nothing where the kernel does not say, which costs speed only.
    """
    ranges: list[tuple[int, int]] = []
    try:
        with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", 0) as pages:
            for line in maps:
                header = _HEADER.match(line)
                if header and header[4].startswith(f"/memfd:{_NAME} "):
                    _add_written(ranges, pages, int(header[1], 16), int(header[2], 16))
    except OSError:
        return []
    return ranges


def _add_written(ranges: list[tuple[int, int]], pages: RawIOBase, start: int, end: int) -> None:
    """Add what was written to of one mapping."""
    page = mmap.PAGESIZE
    count = (end - start) // page
    pages.seek(start // page * 8)
    for number, entry in enumerate(struct.unpack(f"{count}Q", pages.read(count * 8) or b"")):
        # Bit 63: it is in memory; bit 61: it is the file's (the kernel's admin-guide/mm/pagemap).
        if entry >> 61 & 5 != 4:
            continue
        address = start + number * page
        if ranges and sum(ranges[-1]) == address:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + page)
        else:
            ranges.append((address, page))


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
