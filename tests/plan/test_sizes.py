"""Sizes that are counted from a configuration, against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.plan.known import KNOWN, find_sizes
from swift_thyme.plan.sizes import sizes_of

QWEN2_5 = {"mrope_section": [16, 24, 24], "rope_type": "default", "rope_theta": 1e6}


def built(size: str) -> Any:
    """Return transformers' model of a known size, without memory for its weights."""
    import torch
    import transformers as hf

    name, config = KNOWN[size]
    kind = {"Qwen2.5": "Qwen2_5_VL", "Qwen3": "Qwen3VL"}[name.split("-VL")[0]]
    kind += "Moe" if "num_experts" in config["text_config"] else ""
    text = {**config["text_config"]}
    vision = {**config["vision_config"], "out_hidden_size": text["hidden_size"]}
    if kind == "Qwen2_5_VL":
        text |= {"rope_parameters": QWEN2_5}
    tied = config["tie_word_embeddings"]
    text["tie_word_embeddings"] = tied
    made = getattr(hf, f"{kind}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        return getattr(hf, f"{kind}ForConditionalGeneration")(made)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["3B", "7B", "8B", "30B-A3B"])
def test_counted_parameters_are_those_of_the_model(size: str) -> None:
    model = built(size)
    model.tie_weights()
    real = sum(parameter.numel() for parameter in {id(p): p for p in model.parameters()}.values())
    seen = sum(p.numel() for n, p in model.named_parameters() if ".visual." in n)
    counted = find_sizes(size)
    assert counted.parameters == pytest.approx(real, rel=0.005)
    assert counted.vision == pytest.approx(seen, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_5_moe", "glm4v", "glm4_5v", "internvl_hf", "gemma3"])
def test_the_text_of_other_families_is_counted_too(name: str) -> None:
    import torch
    import transformers as hf

    from tests.families.tiny_models import FAMILIES

    config = FAMILIES[name].build().config
    # Wide enough that norms do not count.
    config.get_text_config().hidden_size = 1024
    with torch.device("meta"):
        text = hf.AutoModel.from_config(config.get_text_config())
    counted = sizes_of(name, config.to_dict())
    assert counted is not None
    vocabulary = counted.vocabulary * counted.hidden
    tables = 1 if counted.text < 2 * vocabulary else 2
    real = sum(parameter.numel() for parameter in text.parameters())
    assert counted.text - (tables - 1) * vocabulary == pytest.approx(real, rel=0.02)


def test_a_size_is_found_in_a_name() -> None:
    assert find_sizes("Qwen/Qwen2.5-VL-7B-Instruct") == find_sizes("7b")
    assert find_sizes("Qwen/Qwen3-VL-30B-A3B-Thinking") == find_sizes("30B-A3B")
    # Ten percent of it are chosen, so a token is as wide as in a model of 3 B.
    assert find_sizes("30B-A3B").wide == 8 * 768


def test_a_configuration_in_a_cache_wins_over_the_size_in_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--Qwen--Own-7B"
    folder = model / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    (folder / "config.json").write_text(json.dumps(KNOWN["3B"][1]))
    assert find_sizes("Qwen/Own-7B").parameters == find_sizes("3B").parameters


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{", "cannot be read"),
        ('{"model_type": "clip"}', "does not say its layers"),
    ],
)
def test_a_folder_that_says_nothing_is_one_line(
    tmp_path: Path, config: str | None, message: str
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(SettingsError, match=f"--model .*{message}"):
        find_sizes(str(tmp_path))


@pytest.mark.parametrize("name", ["my-model", "Qwen/Qwen9-VL-11B", "3BX"])
def test_a_name_that_says_nothing_gets_the_list(name: str) -> None:
    with pytest.raises(SettingsError, match="30B-A3B"):
        find_sizes(name)
