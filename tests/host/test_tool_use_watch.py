"""When the log says that tool use fell; pure counting."""

import pytest

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.summary import TrajectorySummary
from swift_thyme.host.tool_use_watch import ToolUseWatch


def step(used: int, failed: int = 0, none: int = 0) -> list[TrajectorySummary]:
    def one(*statuses: str) -> TrajectorySummary:
        blocks = [BlockRecord(status, duration_s=0.0) for status in statuses]
        return TrajectorySummary(turns=1, blocks_written=len(blocks), blocks=blocks)

    return [one("ok")] * used + [one("error")] * failed + [one()] * none


def said(watch: ToolUseWatch, *steps: list[TrajectorySummary]) -> list[str]:
    return [text for each in steps if (text := watch.settle(each)) is not None]


def test_a_fall_is_told_once_with_its_causes() -> None:
    watch = ToolUseWatch(steps=4)
    texts = said(watch, *[step(64)] * 4, *[step(56, failed=2, none=6)] * 12)
    assert len(texts) == 1
    assert "fell to 87.5% of the trajectories of the last 4 steps" in texts[0]
    assert "steps 1 to 4 it was 100.0%" in texts[0]
    assert "75% wrote no code" in texts[0]


def test_a_further_fall_is_told_again() -> None:
    watch = ToolUseWatch(steps=2)
    texts = said(watch, *[step(64)] * 2, *[step(56, none=8)] * 4, *[step(32, none=32)] * 4)
    # In between the two steps of a window differ too much to say anything.
    assert [text[:22] for text in texts] == ["tool use fell to 87.5%", "tool use fell to 50.0%"]


def test_noise_and_a_rise_are_not_told() -> None:
    assert said(ToolUseWatch(steps=4), *[step(60, none=4), step(64)] * 10) == []
    assert said(ToolUseWatch(steps=4), *[step(20, none=44)] * 8, *[step(64)] * 8) == []


def test_steps_that_ask_other_things_are_no_fall() -> None:
    # Of four questions of a step some need no tool; three quarters use it, then a little less.
    before = [step(32), step(16, none=16), step(24, none=8), step(24, none=8)] * 2
    after = [step(16, none=16), step(16, none=16), step(32), step(24, none=8)] * 2
    assert said(ToolUseWatch(steps=8), *before, *after) == []


def test_a_fall_that_chance_explains_is_not_told() -> None:
    # One of eight trajectories is 12 points, and says nothing.
    assert said(ToolUseWatch(steps=1), step(8), step(7, none=1)) == []


def test_zero_steps_watch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THYME_TOOL_USE_STEPS", "0")
    assert said(ToolUseWatch(), *[step(64)] * 8, *[step(0, none=64)] * 16) == []
