"""How much memory a process is told to use: its own, not the kernel's cache of files."""

import mmap
import os
import subprocess
from pathlib import Path

import cv2
import pytest

from swift_thyme.sandbox.processes import resident_bytes, resident_in

MIB = 1 << 20


def touch(memory: mmap.mmap) -> None:
    """Read a byte of every page."""
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at]


def test_pages_of_a_library_count_nothing() -> None:
    path = next(Path(cv2.__file__).parent.glob("cv2*.so"))
    kind = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, check=True).stdout
    if kind.strip() == b"tmpfs":
        pytest.skip("files of this environment are shared memory")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as library:
        assert len(library) > 40 * MIB
        before = resident_bytes(os.getpid())
        touch(library)
        assert resident_bytes(os.getpid()) - before < 8 * MIB


@pytest.mark.parametrize("kind", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_own_and_shared_memory_count(kind: int) -> None:
    with mmap.mmap(-1, 64 * MIB, flags=kind | mmap.MAP_ANONYMOUS) as memory:
        before = resident_bytes(os.getpid())
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1
        assert 60 * MIB < resident_bytes(os.getpid()) - before < 72 * MIB


@pytest.mark.parametrize(
    ("status", "kib"),
    [
        (b"VmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  300 kB\nRssShmem:\t  100 kB\n", 600),
        (b"Name:\tpython\nVmSize:\t 4000 kB\nVmRSS:\t  900 kB\n", 900),
        (b"Name:\tpython\nState:\tZ (zombie)\n", 0),
    ],
)
def test_all_pages_count_where_the_kernel_does_not_tell_them_apart(status: bytes, kib: int) -> None:
    assert resident_in(status) == kib * 1024


def test_a_process_that_is_gone_has_none() -> None:
    assert resident_bytes(1 << 22) == 0
