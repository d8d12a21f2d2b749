"""The phases of a step, with a clock that the tests turn."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.host import step_times
from swift_thyme.host.step_times import StepTimes, mean_times, watch_times


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_times, "time", clock)
    return clock


def test_a_moment_belongs_to_the_innermost_phase(clock: Clock) -> None:
    times = StepTimes()
    clock.now += 1
    with times.phase("update"):
        clock.now += 2
        with times.phase("generation"):
            clock.now += 4
            with times.phase("sandbox"):
                clock.now += 8
        clock.now += 16
    clock.now += 32
    assert times.take() == {"rest": 33, "update": 18, "generation": 4, "sandbox": 8}
    clock.now += 5
    assert times.take() == {"rest": 5}


def test_an_error_ends_its_phase(clock: Clock) -> None:
    times = StepTimes()
    with pytest.raises(ValueError, match="no"), times.phase("rewards"):
        clock.now += 1
        raise ValueError("no")
    clock.now += 1
    assert times.take() == {"rewards": 1, "rest": 1}


def test_other_threads_take_no_time_of_the_step(clock: Clock) -> None:
    times = StepTimes()

    def work() -> None:
        with times.phase("encoding"):
            clock.now += 1

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert times.take() == {"rest": 1}


def test_the_methods_of_a_trainer_are_timed_and_do_what_they_did(clock: Clock) -> None:
    def training_step(model: Any, inputs: Any, *, num_items_in_batch: int) -> int:
        clock.now += 1
        return trainer._compute_rewards_per_func(inputs) + num_items_in_batch

    def rewards(samples: list[int]) -> int:
        clock.now += 2
        return sum(samples)

    names = dict.fromkeys(step_times._PHASES, len)
    methods = {"training_step": training_step, "_compute_rewards_per_func": rewards}
    trainer = SimpleNamespace(**(names | methods))
    times = StepTimes()
    watch_times(trainer, times)
    assert trainer.training_step(None, [1, 2], num_items_in_batch=4) == 7
    assert times.take() == {"rest": 0, "update": 1, "rewards": 2}


def test_the_phases_of_all_processes_add_up_to_the_step() -> None:
    metrics = mean_times([{"rest": 1.0, "update": 3.0}, {"rest": 1.0, "generation": 3.0}])
    assert metrics == {
        "thyme/time/generation": 1.5,
        "thyme/time/rest": 1.0,
        "thyme/time/update": 1.5,
        "thyme/time/step": 4.0,
    }
