"""Filling missing rewards, checked against ms-swift's own advantages; the trainer is a stub."""

from __future__ import annotations

import random
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.host import missing_rewards as missing
from swift_thyme.host.missing_rewards import fill_missing, install_filling
from swift_thyme.rewards.metrics import RewardMetrics

torch = pytest.importorskip("torch")

NAN = float("nan")


def advantages(rewards: torch.Tensor, scale: str = "group", kind: str = "grpo") -> torch.Tensor:
    """Return what `swift.rl_core.advantage.compute_advantages` does; the last test runs that."""
    grouped = rewards.nansum(dim=1).view(-1, 4)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    return (centred / (grouped.std(dim=1, keepdim=True) + 1e-4)).view(-1)


def test_a_missing_reward_becomes_the_mean_of_the_others_in_its_group() -> None:
    rewards = torch.tensor([[1.0], [NAN], [0.0], [0.0], [NAN], [1.0], [1.0], [1.0]])
    filled, count = fill_missing(rewards, [0], [0] * 4 + [1] * 4)
    assert count == 2
    assert filled[:, 0].tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])


def test_an_unscored_sample_has_no_advantage_and_a_zero_in_its_place_would() -> None:
    rewards = torch.tensor([[1.0], [NAN], [0.0], [1.0]])
    filled, _ = fill_missing(rewards, [0], [0] * 4)
    assert advantages(filled)[1].item() == pytest.approx(0.0, abs=1e-6)
    assert advantages(rewards)[1].item() < -0.5


def test_a_wholly_unscored_group_is_constant_and_left_out_of_the_means() -> None:
    rewards = torch.tensor([[NAN, 0.5]] * 4 + [[1.0, 0.5]] * 4)
    filled, count = fill_missing(rewards, [0], [0] * 4 + [1] * 4)
    assert count == 0
    assert filled[:4, 0].isnan().all()
    assert advantages(filled).abs().max().item() == pytest.approx(0.0, abs=1e-6)


def test_other_columns_keep_their_gaps_and_the_input_is_not_changed() -> None:
    rewards = torch.tensor([[NAN, NAN], [1.0, 1.0]])
    filled, count = fill_missing(rewards, [1], [0, 0])
    assert count == 1
    assert filled[0, 0].isnan() and filled[0, 1] == 1.0
    assert rewards[0, 1].isnan()


def test_groups_need_not_stand_together() -> None:
    rewards = torch.tensor([[1.0], [0.0], [NAN], [NAN]])
    filled, _ = fill_missing(rewards, [0], ["a", "b", "a", "b"])
    assert filled[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_groups_and_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 rows"):
        fill_missing(torch.zeros(2, 1), [0], ["a"])


def test_for_any_pattern_of_gaps_each_unscored_sample_has_no_advantage() -> None:
    chooser = random.Random(3)
    for _ in range(200):
        values = [chooser.choice([0.0, 1.0, NAN]) for _ in range(8)]
        rewards = torch.tensor([[value] for value in values])
        filled, _ = fill_missing(rewards, [0], [row // 4 for row in range(8)])
        found = advantages(filled)
        assert found[rewards[:, 0].isnan()].abs().sum().item() == pytest.approx(0.0, abs=1e-5)


class Reward:
    def __init__(self, fills: bool) -> None:
        if fills:
            self.fills_missing = True


def stub_trainer(rewards: list[list[float]]) -> type:
    class GRPOTrainer:
        reward_funcs = (Reward(True), Reward(False))
        dynamic_num_samples = False
        num_generations = 2
        num_generations_eval = 4
        model = SimpleNamespace(training=True)
        accelerator = SimpleNamespace(is_main_process=True)

        def _compute_rewards_per_func(self, samples: list[Any]) -> torch.Tensor:
            return torch.tensor(rewards)

    return GRPOTrainer


def install(monkeypatch: pytest.MonkeyPatch, trainer: type) -> RewardMetrics:
    metrics = RewardMetrics()
    module = SimpleNamespace(GRPOTrainer=trainer)
    monkeypatch.setitem(sys.modules, missing._TRAINER_MODULE, module)
    assert install_filling(metrics)
    return metrics


def test_the_trainer_fills_marked_columns_by_its_own_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer_class = stub_trainer([[1.0, NAN], [NAN, 1.0], [0.0, 1.0], [NAN, 1.0]])
    metrics = install(monkeypatch, trainer_class)
    trainer = trainer_class()
    filled = trainer._compute_rewards_per_func([])
    assert filled[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert filled[0, 1].isnan()
    assert metrics.drain()["rewards_filled"] == 2
    trainer.model.training = False
    assert trainer._compute_rewards_per_func([])[:, 0].tolist() == [1.0, 0.5, 0.0, 0.5]


def test_installing_twice_fills_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_class = stub_trainer([[1.0, 0.0], [NAN, 0.0]])
    metrics = install(monkeypatch, trainer_class)
    first = trainer_class._compute_rewards_per_func
    assert install_filling(metrics)
    assert trainer_class._compute_rewards_per_func is first


def test_with_a_varying_number_of_samples_the_prompt_makes_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer_class = stub_trainer([[1.0, 0.0], [0.0, 0.0], [NAN, 0.0]])
    install(monkeypatch, trainer_class)
    trainer = trainer_class()
    trainer.dynamic_num_samples = True
    samples = [SimpleNamespace(prompt_id=name) for name in ("p", "q", "p")]
    assert trainer._compute_rewards_per_func(samples)[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_without_the_trainer_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, missing._TRAINER_MODULE, raising=False)
    assert not install_filling(RewardMetrics())


CHECK_WITH_SWIFT = """
import torch
from swift.rl_core.advantage import compute_advantages
from swift_thyme.host.missing_rewards import fill_missing
nan = float("nan")
rewards = torch.tensor([[1.0], [nan], [0.0], [1.0], [nan], [nan], [nan], [nan]])
filled, _ = fill_missing(rewards, [0], [row // 4 for row in range(8)])
for estimator in ("grpo", "rloo", "reinforce_plus_plus"):
    for scale in ("group", "batch", "none", "gdpo"):
        found, _ = compute_advantages(filled, torch.ones(1), 4, estimator, scale)
        assert found[rewards[:, 0].isnan()].abs().max() < 1e-5, (estimator, scale, found)
        assert found[0] > 0 > found[2], (estimator, scale, found)
bare, _ = compute_advantages(rewards, torch.ones(1), 4)
assert bare[1] < -0.5
print("agrees")
"""


def test_ms_swift_gives_unscored_samples_no_advantage_with_any_of_its_estimators() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK_WITH_SWIFT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("agrees")
