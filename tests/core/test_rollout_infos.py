"""The summary of a trajectory on its way through ms-swift; JSON stands for the server's HTTP."""

import json

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.rollout_infos import read_infos, write_infos
from swift_thyme.core.summary import EndReason, TrajectorySummary

CROP = BlockRecord(
    "ok",
    turn=1,
    code="print(1)",
    output="<sandbox_output>1<image></sandbox_output>",
    images=(ReturnedImage(b"png", 56, 28, "crop.png"),),
    repairs=("dedent",),
    duration_s=0.25,
    offset=30,
    n_ids=40,
    tokens=60,
)
TOO_LONG = BlockRecord("ok", turn=3, duration_s=0.5, entered=False)


def make_summary() -> TrajectorySummary:
    return TrajectorySummary(
        turns=3,
        blocks_written=3,
        blocks=[CROP, TOO_LONG],
        sampled_tokens=123,
        boundary_repairs=2,
        end_reason=EndReason.LENGTH_LIMIT,
    )


def test_a_summary_comes_back_without_code_output_and_bytes() -> None:
    read = read_infos(json.loads(json.dumps(write_infos(make_summary()))))
    assert read is not None
    assert (read.turns, read.blocks_written, read.sampled_tokens) == (3, 3, 123)
    assert read.boundary_repairs == 2
    assert read.end_reason is EndReason.LENGTH_LIMIT
    crop, too_long = read.blocks
    assert (crop.status, crop.turn) == ("ok", 1)
    assert (crop.offset, crop.n_ids, crop.tokens) == (30, 40, 60)
    assert (crop.repairs, crop.duration_s, crop.entered) == (("dedent",), 0.25, True)
    assert [(i.data, i.width, i.height, i.name) for i in crop.images] == [(b"", 56, 28, "crop.png")]
    assert (crop.code, crop.output) == ("", "")
    assert (too_long.entered, too_long.tokens) == (False, None)
    assert (read.images, read.tool_used, read.blocks_ran, read.sandbox_s) == (1, True, 2, 0.75)


def test_the_counts_that_a_reward_function_may_read_are_there() -> None:
    infos = write_infos(make_summary())
    assert infos["thyme_statuses"] == ["ok", "ok"]
    assert infos["thyme_blocks"] == 3
    assert infos["thyme_blocks_ran"] == 2
    assert infos["thyme_images"] == 1
    assert infos["thyme_tool_used"] is True
    assert infos["thyme_end_reason"] == "length_limit"
    assert infos["thyme_sandbox_s"] == 0.75


def test_statuses_alone_are_enough() -> None:
    read = read_infos({"num_turns": 2, "thyme_statuses": ["ok", "timeout"]})
    assert read is not None
    assert read.statuses == ["ok", "timeout"]
    assert (read.turns, read.blocks_ran, read.blocks_recorded) == (2, 1, True)


def test_an_end_reason_alone_says_nothing_about_the_blocks() -> None:
    read = read_infos({"thyme_end_reason": "sandbox_failure"})
    assert read is not None
    assert read.end_reason is EndReason.SANDBOX_FAILURE
    assert not read.blocks_recorded


def test_a_rollout_without_a_record_has_no_summary() -> None:
    assert read_infos(None) is None
    assert read_infos({}) is None
    assert read_infos({"num_turns": 3, "images": []}) is None
