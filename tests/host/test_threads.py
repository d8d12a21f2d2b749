"""How many threads torch takes."""

import logging
import os

import pytest
import torch  # noqa: TID253 - what is set is its threads

from swift_thyme.doctor.threads import threads
from swift_thyme.host.threads import settle_threads, suitable_threads


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"),
    [(1, 1, 1), (2, 1, 2), (8, 1, 8), (64, 1, 8), (64, 8, 8), (64, 16, 4), (2, 4, 1)],
)
def test_a_process_takes_its_share_of_the_cores_and_not_too_many(
    cores: int, ranks: int, expected: int
) -> None:
    assert suitable_threads(cores, ranks) == expected


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch is told, on a machine with 64 cores."""
    found: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    return found


def test_a_job_on_a_gpu_takes_few_threads_and_says_so_once(
    taken: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        settle_threads(on_gpu=True)
        assert taken == [8] and "torch takes 8 threads, not 64" in caplog.text
        caplog.clear()
        for name, value in (("RANK", "3"), ("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "16")):
            monkeypatch.setenv(name, value)
        settle_threads(on_gpu=True)
    assert taken == [8, 4] and not caplog.text


def test_what_the_user_has_set_stays(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "32")
    settle_threads(on_gpu=True)
    assert not taken
    (finding,) = threads(1.0)
    assert finding.text.startswith("32 (OMP_NUM_THREADS), 64 cores")


def test_a_model_on_the_processors_has_all_of_them(taken: list[int]) -> None:
    settle_threads(on_gpu=False)
    assert not taken
    (finding,) = threads(1.0)
    assert finding.text.startswith("torch takes 8 beside a GPU, 64 cores")
