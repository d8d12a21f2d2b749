"""A real run that is resumed in a folder of its own is one run in the report and in the page."""

from pathlib import Path

import pytest

from swift_thyme.view.run_log import lineage_of, read_log
from swift_thyme.view.run_table import find_run, main
from swift_thyme.view.sources import load

from .jobs import as_argv, asked_at, grpo_flags, swift


@pytest.mark.ci
def test_a_run_that_was_resumed_is_one_run(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    flags = grpo_flags(tiny_data, output, steps=2) | {
        "save_strategy": "steps",
        "save_steps": 1,
        "log_completions": True,
    }
    first = swift("rlhf", *as_argv(flags))
    assert first.returncode == 0, first.stderr[-4000:]
    (checkpoint,) = output.glob("v0-*/checkpoint-1")
    flags |= {"max_steps": 3, "resume_from_checkpoint": str(checkpoint)}
    second = swift("rlhf", *as_argv(flags))
    assert second.returncode == 0, second.stderr[-4000:]

    log = read_log(lineage_of(find_run(output).parent))
    assert [entry.step for entry in log.training] == [1, 2, 3]
    assert log.resumed_at == (1,)
    older, newer = log.lineage.folders
    assert older == checkpoint.parent
    (last,) = [e for e in read_log(lineage_of(older)).training if e.step == 2]
    # Step 2 was trained twice; the time that it took is that of the later job.
    assert log.training[1].values["step_time"] != last.values["step_time"]
    assert asked_at(older, 2) == asked_at(newer, 2) != asked_at(older, 1)
    kept = load([output])
    assert {item.record.step for item in kept} == {1, 2, 3}
    assert {item.record.run for item in kept} == {"train"}
    assert {item.folder.is_relative_to(newer) for item in kept if item.record.step == 2} == {True}
    main([str(output), "--plot"])
    assert "3 training steps" in capsys.readouterr().out
    assert (newer / "curves.png").stat().st_size > 10_000
