"""What is logged about trajectories; pure functions."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.errors import DataError, HostError, SandboxDeadError
from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.summary import EndReason, TrajectorySummary

metrics = pytest.importorskip("swift_thyme.host.callback")
torch = pytest.importorskip("torch")
# Of ms-swift's modules, which the first test that starts a callback imports.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)


def make_summary(
    *statuses: str, images: int = 0, end: EndReason = EndReason.ANSWER
) -> TrajectorySummary:
    blocks = [BlockRecord(status, duration_s=0.5) for status in statuses]
    if images:
        pictures = tuple(ReturnedImage(b"", 8, 8, "") for _ in range(images))
        blocks[0] = replace(blocks[0], images=pictures)
    return TrajectorySummary(
        turns=1 + len(statuses), blocks_written=len(statuses), blocks=blocks, end_reason=end
    )


def test_rates_are_shares_of_trajectories_and_of_executed_blocks() -> None:
    logged = metrics.trajectory_metrics(
        [
            make_summary("ok", "error", images=1),
            make_summary("ok", images=2),
            make_summary("timeout", end=EndReason.LENGTH_LIMIT),
            replace(make_summary(end=EndReason.END_OF_TEXT), boundary_repairs=2),
        ]
    )
    assert logged["thyme/tool_use_rate"] == 0.5
    assert logged["thyme/code_success_rate"] == 0.5
    assert logged["thyme/status/error"] == logged["thyme/status/timeout"] == 0.25
    assert logged["thyme/images"] == 0.75
    assert logged["thyme/images_total"] == 3
    assert logged["thyme/turns"] == 2
    assert logged["thyme/boundary_repairs"] == 0.5
    assert logged["thyme/end/answer"] == 0.5
    assert logged["thyme/end/length_limit"] == logged["thyme/end/end_of_text"] == 0.25


def test_a_success_rate_of_no_block_is_missing_and_not_zero() -> None:
    assert "thyme/code_success_rate" not in metrics.trajectory_metrics([make_summary()])


def test_counts_of_the_ranks_are_added_and_shares_averaged() -> None:
    merged = metrics.merge_reward_metrics(
        [{"judge_calls": 3.0, "rule_decided": 0.5}, {"judge_calls": 1.0, "rule_decided": 1.0}, {}]
    )
    assert merged == {"thyme/judge_calls": 4.0, "thyme/rule_decided": 0.75}


def test_with_a_rollout_server_the_summaries_come_back_with_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THYME_KEEP_TRAJECTORIES", "0")
    logged: list[Any] = []
    store: dict[str, Any] = {"train": defaultdict(list)}
    trainer = SimpleNamespace(
        _log_rollout=logged.append,
        _compute_rewards_per_func=len,
        _metrics=store,
        reward_func_names=[],
        train_dataset=None,
        template=SimpleNamespace(_get_response_prefix=lambda row: ""),
    )
    callback = metrics.ThymeCallback(None, trainer)
    state = SimpleNamespace(is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    samples = [
        SimpleNamespace(rollout_infos=write_infos(make_summary("ok")), extra={}),
        SimpleNamespace(rollout_infos={}),
    ]
    assert trainer._compute_rewards_per_func(samples) == 2
    trainer._log_rollout(samples)
    callback.on_step_end(None, state, None)
    assert logged == [samples]
    assert store["train"]["thyme/tool_use_rate"] == [1.0]
    callback.on_step_end(None, state, None)
    assert store["train"]["thyme/tool_use_rate"] == [1.0]


def test_trajectories_that_dynamic_sampling_throws_away_count_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store: dict[str, Any] = {"train": defaultdict(list)}
    trainer = grpo_trainer(**NAMES | {"_metrics": store, "_compute_rewards_per_func": len})
    trainer.reward_funcs = []
    trainer.template = SimpleNamespace(_get_response_prefix=lambda row: "")
    callback = start(trainer, monkeypatch)
    infos = [write_infos(make_summary(*statuses)) for statuses in (["ok"], [], [], [])]
    samples = [SimpleNamespace(rollout_infos=values, extra={}) for values in infos]
    # Two batches are scored, and the second one alone is trained on.
    for batch in (samples[:2], samples[2:]):
        trainer._compute_rewards_per_func(batch)
    trainer._log_rollout(samples[2:])
    callback.on_step_end(None, SimpleNamespace(), None)
    assert store["train"]["thyme/trajectories"] == [4]
    assert store["train"]["thyme/tool_use_rate"] == [0.25]


def test_an_evaluation_of_several_batches_is_counted_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}
    names = ["VqaORM", "FmtORM", "CstORM"]
    trainer = grpo_trainer(**NAMES | {"_metrics": store, "reward_func_names": names})
    none = float("nan")
    batches = [
        [[1.0, 0.5, none], [0.0, 0.5, none]],
        [[1.0, 0.0, none], [1.0, 0.0, 0.0], [none, 0.0, none]],
    ]
    trainer._compute_rewards_per_func = lambda samples: torch.tensor(batches[len(samples) - 2])
    trainer.reward_funcs = []
    trainer.template = SimpleNamespace(_get_response_prefix=lambda row: "")
    callback = start(trainer, monkeypatch)
    infos = write_infos(make_summary("ok"))
    sample = SimpleNamespace(rollout_infos=infos, extra={})
    for _ in range(2):
        for size in (2, 3):
            trainer._compute_rewards_per_func([sample] * size)
            callback.on_prediction_step(None, SimpleNamespace(), None)
        logged = {name: sum(values) / len(values) for name, values in store["eval"].items()}
        assert logged["thyme/trajectories"] == 5
        assert logged["thyme/tool_use_rate"] == 1
        assert {name: value for name, value in logged.items() if "right" in name} == {
            "thyme/right/VqaORM": 3,
            "thyme/right/CstORM": 0,
        }
        assert logged["thyme/wrong/VqaORM"] == logged["thyme/wrong/CstORM"] == 1
        store["eval"].clear()
        callback.on_evaluate(None, SimpleNamespace(), None)


def test_steps_in_which_the_sandbox_failed_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THYME_SANDBOX_MAX_FAILED_STEPS", "2")
    store: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer = grpo_trainer(**NAMES | {"_metrics": store, "_compute_rewards_per_func": len})
    trainer.reward_funcs = []
    trainer.template = SimpleNamespace(_get_response_prefix=lambda row: "")
    callback = start(trainer, monkeypatch)
    failed = write_infos(make_summary(end=EndReason.SANDBOX_FAILURE))
    samples = [SimpleNamespace(rollout_infos=failed, extra={})] * 4
    trainer._log_rollout(samples)
    trainer._compute_rewards_per_func(samples)
    callback.on_step_end(None, SimpleNamespace(), None)
    # An evaluation between two steps is none.
    trainer._compute_rewards_per_func(samples)
    callback.on_prediction_step(None, SimpleNamespace(), None)
    callback.on_evaluate(None, SimpleNamespace(), None)
    trainer._compute_rewards_per_func(samples)
    with pytest.raises(SandboxDeadError, match="for 2 steps in a row"):
        callback.on_step_end(None, SimpleNamespace(), None)
    assert store["train"]["thyme/end/sandbox_failure"] == [1.0, 1.0]


@pytest.mark.parametrize("column", ["teacher_prompt", "teacher_images"])
def test_a_column_of_a_teachers_own_view_is_named(
    monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    trainer = grpo_trainer(**NAMES, reward_funcs=[])
    trainer.train_dataset = SimpleNamespace(column_names=["messages", column])
    with pytest.raises(DataError, match=f"a column {column}"):
        start(trainer, monkeypatch)


NAMES: dict[str, Any] = {
    "_log_rollout": print,
    "_compute_rewards_per_func": print,
    "_metrics": {},
    "reward_func_names": [],
}


def start(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("THYME_KEEP_TRAJECTORIES", "0")
    callback = metrics.ThymeCallback(None, trainer)
    callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=True), None)
    return callback


def grpo_trainer(**attributes: Any) -> Any:
    """Return an object that looks like ms-swift's own trainer."""
    from swift_thyme.host.step_times import _PHASES

    kind = type("GRPOTrainer", (), {"__module__": "swift.rlhf_trainers.grpo_trainer"})
    trainer = type("Trainer", (kind,), {})()
    trainer.old_policy = lambda: True
    vars(trainer).update(dict.fromkeys(_PHASES.keys() - NAMES.keys(), len) | attributes)
    return trainer


@pytest.mark.parametrize("name", list(NAMES))
def test_a_grpo_trainer_that_lacks_a_name_ends_the_job(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    attributes = dict(NAMES)
    del attributes[name]
    with pytest.raises(HostError, match=name):
        start(grpo_trainer(**attributes), monkeypatch)


def test_another_trainer_is_worth_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = start(SimpleNamespace(_metrics={}), monkeypatch)
    callback.on_step_end(None, SimpleNamespace(), None)
    assert "not ms-swift's own GRPO trainer" in caplog.text


def test_a_step_that_showed_no_rollout_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = start(grpo_trainer(**NAMES, reward_funcs=[]), monkeypatch)
    with pytest.raises(HostError, match="_log_rollout"):
        callback.on_step_end(None, SimpleNamespace(), None)


def test_rewards_that_are_not_filled_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = SimpleNamespace(fills_missing=True)
    trainer = grpo_trainer(**NAMES, reward_funcs=[reward])
    with pytest.raises(HostError, match="count as zero"):
        start(trainer, monkeypatch)


def test_rows_with_missing_files_are_described(tmp_path: Path) -> None:
    here = tmp_path / "a.jpg"
    here.write_bytes(b"x")
    rows = [
        {"images": [str(here)], "question": "fine", "solution": "1"},
        {"images": [{"bytes": None, "path": "/no/such.jpg"}], "question": "Q2", "solution": "2"},
        {"images": [{"bytes": b"x", "path": "/no/such.jpg"}], "question": "bytes win"},
        {"images": ["https://example.org/a.jpg", "data:image/png;base64,AAAA"], "question": "url"},
        {"images": None, "question": "text only"},
        {"images": ["/gone.jpg"], "messages": [{"role": "user", "content": "Q6"}]},
    ]
    rows.append(
        {
            "images": [str(here), {"bytes": b"x", "path": None}],
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": 'Q7\nUser Image Path: "/d/a.jpg"'},
                {"role": "user", "content": 'Q7\nUser Image Path 2: "pictures/b.jpg"'},
                {"role": "user", "content": 'Q7\nUser Image Path 3: "left/over.jpg"'},
            ],
        }
    )
    first, second, third = metrics.missing_images(rows)
    assert third.startswith("row 7 ")
    assert "'pictures/b.jpg', which is not an absolute path" in third
    assert first.startswith("row 2 ")
    assert "'Q2'" in first
    assert "/no/such.jpg" in first
    assert second.startswith("row 6 ")
    assert "'Q6'" in second
