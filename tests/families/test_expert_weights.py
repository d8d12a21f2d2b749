"""What ms-swift sends to vLLM of experts, against the checkpoint that vLLM is made to read."""

from pathlib import Path

import pytest

from swift_thyme.host.expert_weights import send_experts_as_in_checkpoints
from tests.families.tiny_models import FAMILIES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "glm4_5v", "qwen3_5_moe"])
def test_weights_are_sent_as_the_checkpoint_holds_them(tmp_path: Path, name: str) -> None:
    import torch
    from safetensors.torch import load_file
    from swift.rlhf_trainers.utils import revert_runtime_names_to_checkpoint
    from transformers import AutoModelForImageTextToText

    FAMILIES[name].write(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="float32")
    send_experts_as_in_checkpoints()
    sent = revert_runtime_names_to_checkpoint(model, dict(model.named_parameters()))
    saved = load_file(tmp_path / "model.safetensors")
    experts = {key for key in saved if ".experts." in key}
    assert experts
    if name == "qwen3_5_moe":
        # vLLM reads the two tensors of a layer as transformers keeps them.
        assert sum(".experts." in key for key in sent) == 2 * 2
        return
    assert experts <= sent.keys()
    assert all(torch.equal(sent[key], saved[key]) for key in experts)
