"""What ms-swift sends to vLLM of experts, against the checkpoint that vLLM is made to read."""

from pathlib import Path

import pytest

from swift_thyme.host.expert_weights import send_experts_as_in_checkpoints
from swift_thyme.sampling.vllm_weights import as_published
from tests.families.tiny_models import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_weights_are_sent_as_the_checkpoint_holds_them(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from swift.rlhf_trainers.utils import revert_runtime_names_to_checkpoint
    from transformers import AutoModelForImageTextToText

    FAMILIES["glm4_5v"].write(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32")
    send_experts_as_in_checkpoints()
    sent = revert_runtime_names_to_checkpoint(model, dict(model.named_parameters()))
    saved = load_file(tmp_path / "model.safetensors")
    experts = {key for key in saved if ".experts." in key}
    assert len(experts) == 4 * 3  # experts and matrices of the one layer that has any
    assert experts <= sent.keys()
    assert all(torch.equal(sent[key], saved[key]) for key in experts)


def test_experts_of_transformers_are_turned_and_published_ones_left() -> None:
    import torch

    layer = "model.language_model.layers.0.mlp."
    kept = {"experts.gate_up_proj": torch.rand(2, 6, 4), "experts.down_proj": torch.rand(2, 4, 3)}
    weights = [(layer + name, tensor) for name, tensor in kept.items()]
    weights.append((layer + "gate.weight", torch.rand(6, 4)))
    turned = dict(as_published(weights, hidden=4, inner=3))
    for name, tensor in kept.items():
        assert torch.equal(turned[layer + name], tensor.transpose(1, 2))
    again = dict(as_published(turned.items(), hidden=4, inner=3))
    assert all(torch.equal(again[name], tensor) for name, tensor in turned.items())
