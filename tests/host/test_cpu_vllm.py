"""The share of memory that vLLM's CPU build plans with; vLLM itself is not loaded."""

import sys
from types import SimpleNamespace

import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.host import cpu_vllm

GIB = 2**30


def pretend(monkeypatch: pytest.MonkeyPatch, free_gib: float, total_gib: float, cpu: bool) -> None:
    memory = (int(free_gib * GIB), int(total_gib * GIB))
    platform = SimpleNamespace(is_cpu=lambda: cpu, mem_get_info=lambda: memory)
    monkeypatch.setattr(cpu_vllm, "is_cpu_build", lambda: cpu)
    module = SimpleNamespace(current_platform=platform)
    monkeypatch.setitem(sys.modules, "vllm.platforms", module)


def test_a_gpu_gets_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1, 100, cpu=False)
    assert cpu_vllm.free_share(0.9, 50 * GIB) == 0.9


@pytest.mark.parametrize(
    ("free", "asked", "share"), [(21.5, 0.9, 0.5), (32, 0.9, 0.7625), (32, 0.3, 0.3)]
)
def test_a_cpu_gets_at_most_four_fifths_of_what_its_processes_leave(
    monkeypatch: pytest.MonkeyPatch, free: float, asked: float, share: float
) -> None:
    pretend(monkeypatch, free, 32, cpu=True)
    assert cpu_vllm.free_share(asked) == pytest.approx(share)


def test_too_little_memory_is_one_line_that_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 10, 32, cpu=True)
    with pytest.raises(EngineError) as caught:
        cpu_vllm.free_share(0.9, 15 * GIB)
    assert "needs about 21.5 GiB of free memory on this CPU, and 10.0 are free" in str(caught.value)
    assert "--engine transformers" in str(caught.value)
    assert "\n" not in str(caught.value)
