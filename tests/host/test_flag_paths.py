"""Flags that work, on ms-swift's own code: what a rollout's masks become in a batch and a loss."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.host.test_scheduler import (
    make_choice,
    make_request,
    make_scheduler,
    take_turn,
    template,
)

__all__ = ["template"]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]

IGNORED = -100
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")
LEVELS = ("token", "sequence", "sequence_token")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (56, 56), (200, 30, 30)).save(path)
    return str(path)


def make_samples(template: Any, picture: str) -> list[Any]:
    """Return two rollouts: one with an output and a returned image in the middle, one without."""
    from swift.rl_core.data import GRPOSample

    encode = template.tokenizer.encode
    image = [*encode("<|vision_start|>"), template.image_token_id, *encode("<|vision_end|>")]
    observation = [*encode("<sandbox_output>seen "), *image, *encode("</sandbox_output>")]
    first, second = encode("<think><code>look()</code>"), encode("</think><answer>2</answer>")
    prompt = {"role": "user", "content": "<image>What is it?"}
    long = GRPOSample(
        messages=[prompt, {"role": "assistant", "content": ""}],
        images=[picture, picture],
        response_token_ids=[[*first, *observation, *second]],
        response_loss_mask=[[1] * len(first) + [0] * len(observation) + [1] * len(second)],
        rollout_logprobs=[[-0.01 * i for i in range(1, len(first) + len(second) + 1)]],
        finish_reason="stop",
    )
    short = GRPOSample(
        messages=[dict(prompt), {"role": "assistant", "content": ""}],
        images=[picture],
        response_token_ids=[list(second)],
        response_loss_mask=[[1] * len(second)],
        rollout_logprobs=[[-0.5] * len(second)],
        finish_reason="length",
    )
    return [long, short]


def batch_of(template: Any, samples: list[Any]) -> tuple[dict[str, Any], Any]:
    from swift.rlhf_trainers.utils import collate_to_grpo_micro_batch, encode_sample

    template.set_mode("train")
    for sample in samples:
        sample.encoded = encode_sample(sample, template)
        sample.encoded.pop("_extra_kwargs", None)
    inputs, batch = collate_to_grpo_micro_batch(
        samples, template, device="cpu", use_logits_to_keep=True
    )
    return inputs, batch


def with_padding_free(template: Any) -> Any:
    import copy

    import torch

    def positions(row: dict[str, Any]) -> dict[str, Any]:
        text = torch.arange(row["input_ids"].shape[-1])[None]
        return {"position_ids": text.expand(3, 1, -1), "text_position_ids": text}

    flat = copy.copy(template)
    flat.padding_free = True
    # The model gives positions of images; their values play no part in the masks.
    flat._get_position_ids = positions
    return flat


def test_a_flattened_batch_has_the_masks_of_a_padded_one(template: Any, picture: str) -> None:
    samples = make_samples(template, picture)
    padded_inputs, padded = batch_of(template, samples)
    flat_inputs, flat = batch_of(with_padding_free(template), make_samples(template, picture))
    assert flat_inputs["input_ids"].shape[0] == 1
    assert padded_inputs["input_ids"].shape[0] == 2
    for row, sample in enumerate(samples):
        n_trained = sum(sample.response_loss_mask[0])
        for batch in (padded, flat):
            mask = batch.completion_mask[row].bool()
            assert int(mask.sum()) == n_trained
            found = batch.rollout_per_token_logps[row][mask].tolist()
            assert found == pytest.approx(sample.rollout_logprobs[0])
            assert bool(batch.truncated_mask[row]) is (sample.finish_reason == "length")


@pytest.mark.parametrize("scale", ["last_round", "thyme", "last_round+thyme"])
def test_a_loss_scale_changes_no_label_of_a_rollout(
    template: Any, picture: str, scale: str
) -> None:
    from swift.template import get_template

    from swift_thyme.host.loss_scale import add_loss_scale

    add_loss_scale()
    other = get_template(template.processor, template_type="thyme_tiny", loss_scale=scale)
    plain = batch_of(template, make_samples(template, picture))[0]["labels"]
    assert batch_of(other, make_samples(template, picture))[0]["labels"].tolist() == plain.tolist()


def test_the_loss_scale_all_would_train_on_the_prompt(template: Any, picture: str) -> None:
    from swift.template import get_template

    other = get_template(template.processor, template_type="thyme_tiny", loss_scale="all")
    plain = batch_of(template, make_samples(template, picture))[0]["labels"]
    trained = batch_of(other, make_samples(template, picture))[0]["labels"]
    assert (trained != IGNORED).sum() > (plain != IGNORED).sum()


def test_the_loss_scale_of_rows_is_in_their_labels(template: Any, picture: str) -> None:
    from swift.template import get_template

    from swift_thyme.host.loss_scale import add_loss_scale

    add_loss_scale()
    masking = get_template(template.processor, template_type="thyme_tiny", loss_scale="thyme")
    masking.set_mode("train")
    text = "<think><code>x</code><sandbox_output>seen</sandbox_output></think><answer>2</answer>"
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": text}]
    encoded = masking.encode({"messages": messages, "images": [picture]})
    assert encoded.get("loss_scale") is None
    trained = masking.tokenizer.decode([i for i in encoded["labels"] if i != IGNORED])
    assert "</code></think>" in trained
    assert "seen" not in trained


def test_a_prompt_that_was_cut_from_the_left_leaves_nothing_to_train_on(
    template: Any, tmp_path: Path
) -> None:
    import asyncio

    from swift.template import get_template

    path = tmp_path / "picture.jpg"
    Image.new("RGB", (448, 448), (10, 120, 200)).save(path)
    short = get_template(
        template.processor,
        template_type="thyme_tiny",
        max_length=60,
        truncation_strategy="left",
    )
    scheduler = make_scheduler(short, max_total_tokens=60)
    choice = make_choice(short, "<think></think><answer>2</answer>")
    result = asyncio.run(take_turn(scheduler, make_request(path), choice, 1))
    assert result["done"]
    assert result["rollout_infos"]["thyme_end_reason"] == "length_limit"
    assert result["response_token_ids"] == []


def test_given_rows_of_other_trainers_can_be_masked_too(template: Any, picture: str) -> None:
    """What the refusal of other kinds of ``--rlhf_type`` says to use."""
    from swift.template import get_template

    from swift_thyme.host.loss_scale import add_loss_scale

    add_loss_scale()
    scale = "last_round+thyme"
    masking = get_template(template.processor, template_type="thyme_tiny", loss_scale=scale)
    masking.set_mode("rlhf")
    text = "<think><code>x</code><sandbox_output>seen</sandbox_output></think><answer>2</answer>"
    messages = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": text}]
    row = {"messages": messages, "rejected_response": "no", "images": [picture]}
    labels = masking.encode(row)["chosen_labels"]
    trained = masking.tokenizer.decode([i for i in labels if i != IGNORED])
    assert "</code></think>" in trained
    assert "seen" not in trained


class Trainer(SimpleNamespace):
    """What ms-swift's loss asks of its trainer, with log-probabilities that a test gives."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return self.logps, None

    def _undo_gradient_accumulation_scaling(self, loss: Any) -> Any:
        return loss


def loss_of(loss_type: str, level: str, batch: Any, logps: Any) -> float:
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    trainer = Trainer(
        logps=logps,
        model=SimpleNamespace(training=True),
        compute_entropy=False,
        overlong_filter=False,
        beta=0.04,
        kl_in_reward=False,
        rollout_importance_sampling_mode=None,
        log_rollout_offpolicy_metrics=False,
        disable_rollout_importance_sampling=False,
        importance_sampling_level=level,
        _has_teacher=False,
        off_policy_sequence_mask_delta=None,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        tau_pos=1.0,
        tau_neg=1.05,
        args=SimpleNamespace(delta=None),
        max_completion_length=200,
        num_generations=2,
        sdar_loss_coef=0,
        chord_sft_iterator=None,
        accelerator=SimpleNamespace(num_processes=1, gather_for_metrics=lambda value: value),
    )
    loss, _ = GRPOTrainer._compute_loss_and_metrics(trainer, None, {}, batch)
    return float(loss)


@pytest.mark.parametrize(("loss_type", "level"), list(itertools.product(LOSSES, LEVELS)))
def test_outputs_of_the_sandbox_change_no_loss(
    template: Any, picture: str, loss_type: str, level: str
) -> None:
    import torch

    _, batch = batch_of(template, make_samples(template, picture))
    mask = batch.completion_mask.bool()
    generator = torch.Generator().manual_seed(1)
    logps = -torch.rand(mask.shape, generator=generator)
    batch.old_per_token_logps = logps - 0.1 * torch.rand(mask.shape, generator=generator)
    batch.ref_per_token_logps = logps - 0.2 * torch.rand(mask.shape, generator=generator)
    batch.advantages = torch.tensor([[1.0], [-1.0]]).expand(mask.shape)
    batch.num_items_in_batch = mask.sum()
    before = loss_of(loss_type, level, batch, logps)
    assert loss_of(loss_type, level, batch, logps - (~mask) * 3.0) == pytest.approx(before)
    assert loss_of(loss_type, level, batch, logps - mask * 3.0) != pytest.approx(before)


def test_a_fused_loss_is_given_the_mask_of_sampled_tokens(template: Any, picture: str) -> None:
    import torch
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    inputs, batch = batch_of(template, make_samples(template, picture))
    given: dict[str, Any] = {}

    def fused(**arguments: Any) -> tuple[Any, list[Any]]:
        given.update(arguments)
        return torch.zeros(()), [torch.zeros(())]

    batch.advantages = torch.ones(batch.completion_mask.shape)
    trainer = SimpleNamespace(
        template=SimpleNamespace(padding_free=False),
        advantage_estimator="grpo",
        beta=0,
        _get_last_hidden_state=lambda *args: None,
        _get_rollout_is_correction=lambda *args: (None, None),
        liger_grpo_loss=fused,
        control=SimpleNamespace(should_evaluate=False),
        _metrics={"train": {"clip_ratio": []}},
        accelerator=SimpleNamespace(gather_for_metrics=lambda value: value),
    )
    head = SimpleNamespace(lm_head=SimpleNamespace(weight=None, bias=None))
    GRPOTrainer.compute_liger_loss(trainer, head, inputs, batch)
    assert given["attention_mask"].tolist() == batch.completion_mask.tolist()
    taken = given["selected_token_ids"][given["attention_mask"].bool()].tolist()
    samples = make_samples(template, picture)
    sampled = [
        token
        for sample in samples
        for token, mask in zip(
            sample.response_token_ids[0], sample.response_loss_mask[0], strict=True
        )
        if mask
    ]
    assert taken == sampled


def shared_logps(monkeypatch: pytest.MonkeyPatch, length: int, padding_free: bool) -> list[float]:
    """Return by how much ms-swift's log-probabilities of the last 3 tokens differ, in a group of 2.

    What the two processes of the group do is done here by one.
    """
    import contextlib

    import torch
    from swift.rlhf_trainers import grpo_trainer

    padded = length + length % 2
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 9, (1, length), generator=generator)
    logits = torch.randn((1, padded, 9), generator=generator)

    def split(a: Any, b: Any, labels: Any, *rest: Any, **settings: Any) -> tuple[Any, ...]:
        rolled = torch.roll(labels, -1, dims=1)
        filled = torch.nn.functional.pad(rolled, (0, padded - length), value=-100)
        return (None, None, filled, None, None, None, None)

    group = SimpleNamespace(
        prepare_inputs=lambda inputs: None,
        real_position_ids=torch.arange(length)[None],
        pad_and_split_inputs=split,
        rp_world_size=1,
    )
    monkeypatch.setattr(grpo_trainer, "sequence_parallel", group)
    gather = SimpleNamespace(apply=lambda values, labels, dim, positions: (values, labels))
    monkeypatch.setattr(grpo_trainer, "GatherLoss", gather)
    trainer = SimpleNamespace(
        _template_context=lambda *args: contextlib.nullcontext(),
        template=SimpleNamespace(padding_free=padding_free),
        processing_class=SimpleNamespace(pad_token_id=0),
        temperature=1.0,
    )
    found, _ = grpo_trainer.GRPOTrainer._get_logps_via_sp(
        trainer,
        lambda **inputs: SimpleNamespace(logits=logits),
        {},
        SimpleNamespace(seq_lengths=torch.tensor([3])),
        3,
        ids,
    )
    expected = logits.log_softmax(-1)[0, length - 4 : length - 1]
    expected = expected.gather(-1, ids[0, length - 3 :, None])[:, 0]
    return [float(value) for value in (found[0] - expected).abs()]


def test_sequence_parallelism_with_padding_free_takes_the_tokens_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for length in (10, 11):
        assert max(shared_logps(monkeypatch, length, padding_free=True)) < 1e-5


# Why a row of the table is refused. Where one of these fails, ms-swift may have mended it.


def test_sequence_parallelism_takes_the_neighbours_of_tokens_without_padding_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert max(shared_logps(monkeypatch, 10, padding_free=False)) < 1e-5
    assert min(shared_logps(monkeypatch, 11, padding_free=False)) > 1e-3


def test_an_api_teacher_is_lost_at_the_first_observation(template: Any, picture: str) -> None:
    from swift.rlhf_trainers.gkd_helpers import assemble_teacher_completion_logprobs

    samples = make_samples(template, picture)
    _inputs, batch = batch_of(template, samples)
    # What a teacher's server returns: one entry per token of the whole sequence.
    parsed = [
        ([[-0.1]] * len(row), [[token] for token in row])
        for row in (sample.encoded["input_ids"] for sample in samples)
    ]
    ids = [sample.response_token_ids for sample in samples]
    mask = batch.completion_mask.bool()
    alone = assemble_teacher_completion_logprobs(parsed[1:], mask[1:], "cpu", ids[1:])
    assert alone.topk_logprobs[0, mask[1], 0].tolist() == pytest.approx([-0.1] * int(mask[1].sum()))
    with pytest.raises(ValueError, match="could not locate"):
        assemble_teacher_completion_logprobs(parsed[:1], mask[:1], "cpu", ids[:1])


def test_a_teachers_own_view_takes_observations_for_sampled(template: Any, picture: str) -> None:
    from swift.rlhf_trainers.gkd_helpers import encode_teacher_view

    sample = make_samples(template, picture)[0]
    sample.teacher_prompt = "<image>What is it? It is a 2."
    assert sample.build_teacher_view()
    template.set_mode("train")
    labels = encode_teacher_view(sample, template)["labels"]
    assert sum(label != IGNORED for label in labels) > sum(sample.response_loss_mask[0])


def test_a_reward_model_sees_returned_images_in_the_wrong_place(
    template: Any, picture: str
) -> None:
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    completion = f"<code>x</code><sandbox_output>{image}</sandbox_output><answer>2</answer>"
    messages = [
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": completion},
    ]
    template.set_mode("train")
    ids = template.encode({"messages": messages, "images": [picture] * 2})["input_ids"]
    (start,) = template.tokenizer.encode("<|vision_start|>", add_special_tokens=False)
    question = template.tokenizer.encode("What is it?", add_special_tokens=False)[0]
    assert ids[: ids.index(question)].count(start) == 2
    assert ids.count(start) == 3


@pytest.mark.parametrize("loss_type", ["real", "fipo"])
def test_ms_swift_takes_a_run_without_a_teacher_for_one_with_it(loss_type: str) -> None:
    from swift.rlhf_trainers.gkd_helpers import resolve_dynamic_opd_self_distillation

    # What RolloutTrainerMixin._setup_teacher makes `_has_teacher` of, where no teacher is given.
    has_teacher = resolve_dynamic_opd_self_distillation(
        has_teacher_explicit=False, is_self_distillation=True
    )
    assert has_teacher, f"--loss_type {loss_type} may work now: take it out of REFUSED_ROWS"
