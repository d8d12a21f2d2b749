"""Frames between the pool and its workers, and the processors that a worker gets."""

import contextlib
import json
import os
import struct
import tracemalloc
import uuid

import pytest

from swift_thyme.sandbox import SandboxPool, processor_claims
from swift_thyme.sandbox.frames import Frame, FrameReader, pack
from swift_thyme.sandbox.wire import WireError
from swift_thyme.sandbox.worker_process import share_of_processors
from tests.sandbox.conftest import small_settings

FRAMES = [
    ({"id": 1, "text": "a"}, []),
    ({"id": 2}, [b"", b"x" * 5000]),
    ({"id": 3, "text": "\u00e9"}, [b"\0\1"]),
]


@pytest.mark.parametrize("step", [1, 3, 16, 1000, 1 << 20])
def test_frames_come_out_as_they_went_in_whatever_the_pieces(step: int) -> None:
    stream = b"".join(pack(header, blobs) for header, blobs in FRAMES)
    reader = FrameReader()
    found = []
    for start in range(0, len(stream), step):
        piece = bytearray(stream[start : start + step])
        found += reader.feed(memoryview(piece))
        piece[:] = bytes(len(piece))  # what was received may be overwritten by what comes next
    assert [(frame.header, frame.blobs) for frame in found] == FRAMES


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IQ", 1 << 30, 0),
        struct.pack(">IQ", 2, 1 << 60),
        struct.pack(">IQ", 2, 0) + b"[]",
        struct.pack(">IQ", 14, 1) + json.dumps({"blobs": [2]}).encode().ljust(14) + b"x",
    ],
)
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(WireError):
        FrameReader().feed(data)


def test_large_blobs_are_held_once() -> None:
    size, step = 2 << 20, 1 << 16
    stream = pack({"id": 1}, [bytes([n]) * size for n in range(8)])
    reader = FrameReader()
    found: list[Frame] = []
    tracemalloc.start()
    try:
        for start in range(0, len(stream), step):
            found += reader.feed(memoryview(stream)[start : start + step])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found[0].blobs == [bytes([n]) * size for n in range(8)]
    assert peak < 8 * size + 2 * size


def test_a_frame_that_promises_much_takes_no_memory_for_it() -> None:
    promise = json.dumps({"id": 1, "blobs": [1 << 29]}).encode()
    reader = FrameReader()
    tracemalloc.start()
    try:
        assert reader.feed(struct.pack(">IQ", len(promise), 1 << 29) + promise + b"x") == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("count", "workers", "shares"),
    [
        (2, 1, [[0, 1]]),
        (2, 2, [[0], [1]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        (8, 3, [[0, 1], [2, 3, 4], [5, 6, 7]]),
        (2, 3, [[], [], []]),
    ],
)
def test_workers_share_the_processors(count: int, workers: int, shares: list[list[int]]) -> None:
    processors = list(range(count))
    assert [share_of_processors(processors, n, workers) for n in range(workers)] == shares


@pytest.fixture
def own_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other job of this host take part."""
    monkeypatch.setattr(processor_claims, "_NAME", f"swift-thyme-test-{uuid.uuid4()}")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


AFFINITY = "print(*os.sched_getaffinity(0))"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_two_jobs_confine_no_workers_to_the_same_processor(own_claims: None) -> None:
    processors = len(os.sched_getaffinity(0))
    settings = small_settings(workers=processors)

    def used(pool: SandboxPool) -> list[tuple[str, ...]]:
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(pool.open_sync()) for _ in range(processors)]
            return sorted({tuple(s.run_sync(AFFINITY).stdout.split()) for s in sessions})

    with SandboxPool(settings) as first:
        alone = used(first)
        with SandboxPool(settings) as second:
            beside = used(second)
    with SandboxPool(settings) as third:
        later = used(third)
    assert {len(one) for one in alone} == {len(one) for one in later} == {1}
    assert len(alone) == len(later) == processors
    # Every processor has a worker of the first job; the kernel places those of the second.
    assert [len(one) for one in beside] == [processors]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_blocks_of_two_workers_run_on_different_processors(own_claims: None) -> None:
    with (
        SandboxPool(small_settings(workers=2)) as pool,
        pool.open_sync() as a,
        pool.open_sync() as b,
    ):
        first, second = (set(s.run_sync(AFFINITY).stdout.split()) for s in (a, b))
    assert len(first) == len(second) == 1 and first != second


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_workers_of_the_ranks_of_a_job_run_on_different_processors(
    own_claims: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = len(os.sched_getaffinity(0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    used = []
    for rank in (0, ranks - 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        with SandboxPool(small_settings(workers=1)) as pool, pool.open_sync() as session:
            used.append(session.run_sync(AFFINITY).stdout.split())
    assert len(used[0]) == len(used[1]) == 1 and used[0] != used[1]
