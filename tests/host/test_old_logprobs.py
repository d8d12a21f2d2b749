"""Where the pass for old log-probabilities is left out, and where it stays."""

from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.host.old_logprobs import skip_old_logprobs


class Trainer:
    """What is read of ms-swift's trainer; it prepares two batches and asks for a reference."""

    def __init__(self, **settings: Any) -> None:
        self.args = SimpleNamespace(async_generate=settings.get("async_generate", False))
        self.beta = settings.get("beta", 0.1)
        self.kl_in_reward = settings.get("kl_in_reward", False)
        self.use_liger_loss = settings.get("use_liger_loss", False)
        self._teacher = settings.get("teacher", False)
        self._used_again = settings.get("used_again", False)
        self.calls: list[str] = []

    def old_policy(self) -> bool:
        return bool(self._used_again)

    def _has_teacher_explicit(self) -> bool:
        return bool(self._teacher)

    def _get_per_token_logps_and_entropies(
        self, model: str, model_inputs: Any, grpo_batch: Any, origin_data: Any = None
    ) -> tuple[Any, Any]:
        self.calls.append(f"{model} {grpo_batch.name}")
        return "numbers", None

    def _prepare_batch_inputs(self, samples: list[str]) -> list[SimpleNamespace]:
        batches = [SimpleNamespace(name=sample) for sample in samples]
        for batch in batches:
            for model, field in (("policy", "old"), ("reference", "ref")):
                found = self._get_per_token_logps_and_entropies(model, {}, batch, origin_data=None)
                setattr(batch, field, found[0])
            if "bad" in batch.name:
                raise ValueError(batch.name)
        return batches


def test_the_first_pass_of_each_batch_is_left_out_and_the_loss_has_its_own() -> None:
    trainer: Any = Trainer()
    assert skip_old_logprobs(trainer)
    batches = trainer._prepare_batch_inputs(["a", "b"])
    assert [(batch.old, batch.ref) for batch in batches] == [(None, "numbers")] * 2
    assert trainer._get_per_token_logps_and_entropies("loss", {}, batches[1])[0] == "numbers"
    assert trainer.calls == ["reference a", "reference b", "loss b"]


def test_a_plugin_that_asks_meanwhile_gets_its_numbers() -> None:
    trainer: Any = Trainer()
    prepare = trainer._prepare_batch_inputs

    def asks_itself(samples: list[str]) -> Any:
        batches = prepare(samples)
        own = SimpleNamespace(name="own")
        assert trainer._get_per_token_logps_and_entropies("policy", {}, own)[0] == "numbers"
        return batches

    trainer._prepare_batch_inputs = asks_itself
    assert skip_old_logprobs(trainer)
    assert trainer._prepare_batch_inputs(["a"])[0].old is None


def test_an_error_while_batches_are_prepared_leaves_nothing_out_later() -> None:
    trainer: Any = Trainer()
    skip_old_logprobs(trainer)
    with pytest.raises(ValueError, match="bad"):
        trainer._prepare_batch_inputs(["bad"])
    batch = SimpleNamespace(name="a")
    assert trainer._get_per_token_logps_and_entropies("loss", {}, batch)[0] == "numbers"


@pytest.mark.parametrize(
    "setting",
    [
        {"used_again": True},
        {"async_generate": True},
        {"teacher": True},
        {"kl_in_reward": True},
        {"use_liger_loss": True},
    ],
)
def test_it_stays_where_something_needs_it(setting: dict[str, bool]) -> None:
    trainer: Any = Trainer(**setting)
    assert not skip_old_logprobs(trainer)
    trainer._prepare_batch_inputs(["a"])
    assert trainer.calls == ["policy a", "reference a"]
