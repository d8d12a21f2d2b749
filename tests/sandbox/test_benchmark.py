"""What the benchmark calls a missed goal."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.sandbox import InputImage, SandboxPool
from tests.sandbox.conftest import IMAGE_PATH, jpeg, small_settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_sandbox.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_sandbox", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_sandbox"] = module
    spec.loader.exec_module(module)
    return module


def test_a_report_within_the_goals_misses_none(bench: Any) -> None:
    report = bench.Report(
        timings={"print": bench.Timing(0.1, 0.2, 5.1, 9.0), "crop": bench.Timing(20, 30, 15, 40)},
        calls_per_s={"print": {1: 100.0, 2: 180.0, 4: 200.0}},
        runaways_s={"sleep": 1.5},
    )
    assert report.missed() == []


def test_each_missed_goal_is_named(bench: Any) -> None:
    report = bench.Report(
        timings={"print": bench.Timing(0.1, 0.2, 5.2, 9.0)},
        calls_per_s={"crop": {1: 100.0, 2: 179.0}},
        runaways_s={"fork": 1.51},
    )
    overhead, speedup, runaway = report.missed()
    assert overhead.startswith("print: 5.1 ms over the bare exec")
    assert speedup.startswith("crop: 2 workers are 1.79 x one")
    assert runaway.startswith("fork: over after 1.51 s")


async def test_the_memory_of_open_sessions_is_measured(bench: Any) -> None:
    async with SandboxPool(small_settings()) as pool:
        images = [InputImage(IMAGE_PATH, jpeg())]
        code = "Image.open(image_path).save('a.png')"
        assert 1 < await bench.measure_memory(pool, images, code, 4) < 100
