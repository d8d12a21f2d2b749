"""The memory of jobs, against what cards held."""

from __future__ import annotations

from dataclasses import replace

import pytest
from generated_page import GeneratedPage
from plan_page import CARD_GIB, MEASURED, PAGES, Measured

from swift_thyme.core.errors import SettingsError
from swift_thyme.plan.choose import FULL_CARD, Wish, choose_rl, choose_sft
from swift_thyme.plan.known import find_sizes
from swift_thyme.plan.memory import Job, engine_needs_gib, estimate

WITHIN = 0.1


@pytest.mark.parametrize("measured", MEASURED, ids=lambda measured: measured.title)
def test_a_peak_is_within_ten_percent_of_what_a_card_held(measured: Measured) -> None:
    computed = estimate(measured.job, find_sizes(measured.size)).peak
    assert computed == pytest.approx(measured.peak_gib, rel=WITHIN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.mark)
def test_the_page_has_the_tables(page: GeneratedPage) -> None:
    assert page.is_current(), "run python scripts/plan_page.py --write"


def wish(gpus: int, card_gib: float = CARD_GIB, tuner: str | None = None) -> Wish:
    return Wish(gpus, card_gib, length=10240, trained=3196, tuner=tuner)


@pytest.mark.parametrize("size", ["3B", "7B", "8B", "30B-A3B"])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_what_is_chosen_fits(size: str, gpus: int) -> None:
    sizes = find_sizes(size)
    try:
        rl = choose_rl(wish(gpus), sizes)
    except SettingsError as error:
        # Weights of 58 GiB are in a GPU of 80 GB once, and not beside those of vLLM.
        assert size == "30B-A3B" and gpus == 1
        assert "--gpus 2 would do" in str(error)
        return
    assert rl.estimate.peak <= FULL_CARD * CARD_GIB
    assert rl.job.share * CARD_GIB >= engine_needs_gib(rl.job, sizes)
    assert rl.accumulation * gpus % 4 == 0
    assert gpus % rl.job.tensor_parallel == 0
    assert choose_sft(wish(gpus), sizes).estimate.peak <= FULL_CARD * CARD_GIB


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
    job = Job(gpus=4, card_gib=CARD_GIB, share=0.3)
    base = estimate(job, sizes)
    assert base.engine == pytest.approx(0.3 * CARD_GIB)
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
