"""One run from the logs of all its starts."""

import shutil
from pathlib import Path

import pytest

from swift_thyme.core.errors import DataError
from swift_thyme.view.run_log import RunLog, drop_repeated, lineage_of, read_log
from tests.view.runs import eval_line, resumed_run, step_line, write_run


def rewards(log: RunLog) -> list[tuple[int, float]]:
    return [(entry.step, entry.values["reward"]) for entry in log.training]


def test_steps_that_were_trained_again_count_once_and_the_later_ones_win(tmp_path: Path) -> None:
    log = read_log(lineage_of(resumed_run(tmp_path)))
    assert rewards(log) == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]
    held_out = [(entry.step, entry.values["reward"]) for entry in log.evaluations]
    assert held_out == [(0, 0.1), (2, 0.2), (5, 0.5)]
    assert log.resumed_at == (2,)


def test_a_run_that_goes_on_in_the_same_folder_is_one_run_too(tmp_path: Path) -> None:
    folder = write_run(tmp_path, *[step_line(step, step) for step in (1, 2, 3, 4)])
    write_run(
        folder,
        *[eval_line(2, 0.5), step_line(3, 30), step_line(4, 40)],
        resumed_from=folder / "checkpoint-2",
    )
    log = read_log(lineage_of(folder))
    assert rewards(log) == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert [entry.step for entry in log.evaluations] == [2]
    assert log.resumed_at == (2,)


def test_a_step_that_was_logged_last_before_a_kill_is_replaced(tmp_path: Path) -> None:
    folder = write_run(tmp_path, step_line(1, 1), step_line(2, 2))
    write_run(folder, step_line(2, 20), resumed_from=folder / "checkpoint-1")
    assert rewards(read_log(lineage_of(folder))) == [(1, 1), (2, 20)]


def test_a_run_of_three_starts_ends_each_at_the_earliest_later_checkpoint(tmp_path: Path) -> None:
    newer = resumed_run(tmp_path)
    last = write_run(
        tmp_path / "v2", step_line(2, 200), resumed_from=newer.parent / newer.name / "checkpoint-1"
    )
    lineage = lineage_of(last)
    assert [folder.name[:2] for folder in lineage.folders] == ["v0", "v1", "v2"]
    assert [lineage.last_step(folder) for folder in lineage.folders] == [1, 1, None]
    assert rewards(read_log(lineage)) == [(1, 1.0), (2, 200)]


def test_folders_that_were_moved_together_are_still_one_run(tmp_path: Path) -> None:
    newer = resumed_run(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    lineage = lineage_of(tmp_path / "there" / newer.name)
    assert len(lineage.folders) == 2
    assert lineage.lost is None


def test_an_earlier_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    newer = resumed_run(tmp_path)
    shutil.rmtree(tmp_path / "v0-20260101-000000")
    lineage = lineage_of(newer)
    assert lineage.folders == (newer,)
    assert lineage.lost == tmp_path / "v0-20260101-000000"
    assert rewards(read_log(lineage))[0] == (3, 30.0)


@pytest.mark.parametrize("arguments", ["{", "[]", '{"resume_from_checkpoint": 5}'])
def test_arguments_that_cannot_be_read_leave_a_run_of_one_folder(
    tmp_path: Path, arguments: str
) -> None:
    newer = resumed_run(tmp_path)
    (newer / "args.json").write_text(arguments)
    assert lineage_of(newer).folders == (newer,)


def test_weights_alone_begin_a_new_run(tmp_path: Path) -> None:
    first = write_run(tmp_path / "v0", step_line(1, 1))
    second = write_run(
        tmp_path / "v1",
        step_line(1, 2),
        resumed_from=first / "checkpoint-1",
        resume_only_model=True,
        ignore_data_skip=True,
    )
    assert lineage_of(second).folders == (second,)


def test_folders_that_name_each_other_end_the_search(tmp_path: Path) -> None:
    one = write_run(tmp_path / "v0", step_line(1, 1), resumed_from=tmp_path / "v1/checkpoint-1")
    two = write_run(tmp_path / "v1", step_line(2, 2), resumed_from=one / "checkpoint-1")
    assert lineage_of(two).folders == (one, two)


def test_an_unfinished_last_line_is_left_out_and_another_broken_one_is_named(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path, step_line(1, 1))
    log = folder / "logging.jsonl"
    with open(log, "a") as file:
        file.write('{"rew')
    assert rewards(read_log(lineage_of(folder))) == [(1, 1)]
    with open(log, "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"logging\.jsonl:2: not JSON"):
        read_log(lineage_of(folder))


def test_values_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, step_line(1, 1, kl=float("nan")) | {"lr": "1e-5"})
    (entry,) = read_log(lineage_of(folder)).entries
    assert set(entry.values) == {"reward"}


def test_neighbours_of_one_step_belong_together_unless_a_step_has_one_item() -> None:
    steps = [(1, False), (2, False), (2, False), (3, False), (2, False), (2, False)]
    again = drop_repeated(list(enumerate(steps)), lambda item: item[1], single=False)
    assert [number for number, _ in again] == [0, 4, 5]
    once = drop_repeated(list(enumerate(steps)), lambda item: item[1], single=True)
    assert [number for number, _ in once] == [0, 5]
