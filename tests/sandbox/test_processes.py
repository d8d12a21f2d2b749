"""How much memory a process is told to use: its own, not the kernel's cache of files."""

import mmap
import os
from pathlib import Path

import cv2
import pytest

from swift_thyme.sandbox.processes import resident_bytes

MIB = 1 << 20


def touch(memory: mmap.mmap) -> None:
    """Read a byte of every page."""
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at]


def test_pages_of_a_library_count_nothing() -> None:
    path = next(Path(cv2.__file__).parent.glob("cv2*.so"))
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


def test_a_process_that_is_gone_has_none() -> None:
    assert resident_bytes(1 << 22) == 0
