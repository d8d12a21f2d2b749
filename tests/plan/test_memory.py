"""The memory of jobs, against what cards held."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.plan.choose import FULL_CARD, Wish, choose_rl, choose_sft
from swift_thyme.plan.known import find_sizes
from swift_thyme.plan.memory import Job, engine_needs_gib, estimate

H100_GIB = 79.6
MEASURED = {
    "3b, full, 4 H100": (
        "3B",
        Job(gpus=4, card_gib=H100_GIB, share=0.55, length=10240, trained=3196),
        73.5,
    ),
}
"""Peak of a card in GiB, by nvidia-smi, of all processes together; docs/your_model.md says how."""
WITHIN = 0.1


@pytest.mark.parametrize("name", MEASURED)
def test_a_peak_is_within_ten_percent_of_what_a_card_held(name: str) -> None:
    size, job, peak = MEASURED[name]
    assert estimate(job, find_sizes(size)).peak == pytest.approx(peak, rel=WITHIN)


def wish(gpus: int, card_gib: float = H100_GIB, tuner: str | None = None) -> Wish:
    return Wish(gpus, card_gib, length=10240, trained=3196, tuner=tuner)


@pytest.mark.parametrize("size", ["3B", "7B", "8B", "30B-A3B"])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_what_is_chosen_fits(size: str, gpus: int) -> None:
    sizes = find_sizes(size)
    try:
        rl = choose_rl(wish(gpus), sizes)
    except SettingsError as error:
        # One GPU of 80 GB holds neither weights twice nor weights of 58 GiB beside an engine.
        assert size == "30B-A3B" and gpus <= 2
        assert "--gpus 4 would do" in str(error)
        return
    assert rl.estimate.peak <= FULL_CARD * H100_GIB
    assert rl.job.share * H100_GIB >= engine_needs_gib(rl.job, sizes)
    assert rl.accumulation * gpus % 4 == 0
    assert gpus % rl.job.tensor_parallel == 0
    assert choose_sft(wish(gpus), sizes).estimate.peak <= FULL_CARD * H100_GIB


def test_full_training_is_taken_where_it_fits() -> None:
    sizes = find_sizes("7B")
    assert choose_rl(wish(4), sizes).job.full
    assert not choose_rl(wish(1), sizes).job.full
    assert not choose_rl(wish(4, tuner="lora"), sizes).job.full
    with pytest.raises(SettingsError, match=r"--tuner full .*--gpus [248] would do"):
        choose_rl(wish(1, tuner="full"), sizes)


def test_a_card_that_is_too_small_for_any_number_of_gpus_is_said() -> None:
    with pytest.raises(SettingsError, match="larger GPUs are needed"):
        choose_rl(wish(1, card_gib=8.0), find_sizes("72B"))


def test_each_term_follows_what_it_is_made_of() -> None:
    sizes = find_sizes("7B")
    job = Job(gpus=4, card_gib=H100_GIB, share=0.3)
    base = estimate(job, sizes)
    assert base.engine == pytest.approx(0.3 * H100_GIB)
    assert estimate(replace(job, gpus=8), sizes).state == pytest.approx(base.state / 2)
    # Under ZeRO-3 all weights of the model come together on each GPU, in 16 bits.
    assert base.sending == pytest.approx(sizes.parameters * 2 / 2**30)
    assert estimate(replace(job, batches=16), sizes).sending < base.sending / 7
    assert estimate(replace(job, zero=2), sizes).sending == 0
    # A logit that is trained on takes more than one that is not computed.
    longer = estimate(replace(job, trained=2 * job.trained), sizes)
    assert longer.backward > base.backward and longer.state == base.state
    # A sleeping engine and the trainer's work are not there at once.
    pieces = replace(job, batches=16)
    assert estimate(replace(pieces, sleeps=True), sizes).peak < estimate(pieces, sizes).peak
    lora = estimate(replace(job, full=False, zero=2), sizes)
    assert lora.state < base.state
