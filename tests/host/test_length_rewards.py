"""ms-swift's rewards of length see the model's own text; through its own table of rewards."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.block import BlockRecord
from swift_thyme.core.rollout_infos import write_infos
from swift_thyme.core.summary import TrajectorySummary

rewards = pytest.importorskip("swift_thyme.host.length_rewards")

OUTPUT = "<sandbox_output>" + "the same line " * 50 + "</sandbox_output>"
COMPLETION = f"<think>a b c <code>\nx\n</code>{OUTPUT} d e f</think><answer>2</answer>"
OWN = COMPLETION.replace(OUTPUT, "")


def summary_of(*blocks: tuple[int, int], sampled: int, entered: bool = True) -> TrajectorySummary:
    return TrajectorySummary(
        sampled_tokens=sampled,
        blocks=[BlockRecord("ok", offset=at, n_ids=n, entered=entered) for at, n in blocks],
    )


@pytest.fixture
def orms() -> Iterator[dict[str, Any]]:
    from swift.rewards import orms as table

    before = dict(table)
    rewards.add_length_rewards()
    yield table
    table.clear()
    table.update(before)


def test_only_what_the_model_sampled_is_left() -> None:
    ids = list(range(20))
    summary = summary_of((3, 4), (10, 5), sampled=11)
    assert rewards.own_ids(ids, summary) == [0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 19]
    assert rewards.own_ids([ids[:9], ids[9:]], summary) == rewards.own_ids(ids, summary)


def test_a_response_prefix_moves_the_outputs() -> None:
    summary = summary_of((3, 4), sampled=5)
    assert rewards.own_ids([90, 91, *range(9)], summary) == [90, 91, 0, 1, 2, 7, 8]


def test_an_output_that_did_not_enter_is_not_looked_for() -> None:
    summary = summary_of((3, 0), sampled=4, entered=False)
    assert rewards.own_ids([0, 1, 2, 3], summary) == [0, 1, 2, 3]
    assert rewards.own_text(COMPLETION, summary) == COMPLETION


def test_without_a_record_all_of_it_counts() -> None:
    assert rewards.own_ids([[1, 2], [3]], None) == [1, 2, 3]
    assert rewards.own_text(COMPLETION, None) == COMPLETION


def test_an_output_that_the_model_wrote_itself_is_its_own_text() -> None:
    faked = f"<think>{OUTPUT}</think>{COMPLETION}{OUTPUT}"
    summary = summary_of((3, 4), sampled=9)
    assert rewards.own_text(faked, summary) == f"<think>{OUTPUT}</think>{OWN}{OUTPUT}"


ARGUMENTS = SimpleNamespace(
    soft_max_length=100,
    soft_cache_length=50,
    cosine_min_len_value_wrong=-0.5,
    cosine_max_len_value_wrong=0.0,
    cosine_min_len_value_correct=1.0,
    cosine_max_len_value_correct=0.5,
    cosine_max_len=100,
    repetition_n_grams=3,
    repetition_max_penalty=-1.0,
)


def score(reward: Any, completion: str, ids: list[int], **infos: Any) -> float:
    columns: dict[str, Any] = {"response_token_ids": [[ids]], "rollout_infos": [infos]}
    (value,) = reward([completion], solution=["2"], trainer_state=None, **columns)
    return float(value)


@pytest.mark.parametrize("name", rewards.LENGTH_REWARDS)
def test_outputs_of_the_sandbox_are_no_length_of_the_model(orms: dict[str, Any], name: str) -> None:
    settings: dict[str, Any] = {}
    if name == "cosine":
        settings["accuracy_orm"] = lambda completions, *args, **columns: [1.0] * len(completions)
    reward = orms[name](args=ARGUMENTS, **settings)
    infos = write_infos(summary_of((10, 80), sampled=40))
    with_output = score(reward, COMPLETION, list(range(120)), **infos)
    assert with_output == pytest.approx(score(reward, OWN, list(range(40))))
    assert with_output != pytest.approx(score(reward, COMPLETION, list(range(120))))


def test_the_names_in_the_metrics_stay_and_again_is_harmless(orms: dict[str, Any]) -> None:
    before = {name: orms[name] for name in rewards.LENGTH_REWARDS}
    rewards.add_length_rewards()
    assert {name: orms[name] for name in rewards.LENGTH_REWARDS} == before
    assert orms["soft_overlong"].__name__ == "SoftOverlong"
    assert orms["cosine"].__name__ == "CosineReward"
    assert orms["repetition"].__name__ == "RepetitionPenalty"


def test_the_rest_of_a_tag_that_ended_inside_a_token_moves_no_output() -> None:
    block = BlockRecord("ok", offset=3, n_ids=2)
    summary = TrajectorySummary(blocks=[block], sampled_tokens=3, boundary_repairs=1)
    assert rewards.own_ids([1, 2, 9, 7, 7, 3], summary) == [1, 2, 9, 3]
    assert rewards.own_ids([5, 1, 2, 9, 7, 7, 3], summary) == [5, 1, 2, 9, 3]
