"""Templates that cannot carry images that code returns are refused before a model is loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError

pytestmark = pytest.mark.filterwarnings("ignore")


def job(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"template": None, "model": None, "model_type": None, **given})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen3", "takes text, and no picture"),
        ("qwen2_audio", "takes sound"),
        ("florence", "apart"),
        ("diffusion_gemma", "apart"),
        ("cogvlm2", "at the head of the prompt"),
        ("emu3_chat", "tokens of the vocabulary"),
        ("qwen_vl", "path of a file"),
        ("qwen3_vl_emb", "writes no text"),
        ("jev", "writes no text"),
        ("paddle_ocr_1_5", "cannot train"),
        ("hunyuan_ocr", "cannot train"),
    ],
)
def test_a_job_with_such_a_template_stops_in_one_line(name: str, reason: str) -> None:
    from swift_thyme.host.template_check import check_job

    with pytest.raises(SettingsError, match=rf"--template {name}, which .*{reason}") as refused:
        check_job(job(template=name))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl_hf", "glm4_5v", "gemma4", "keye_vl_1_5"])
def test_a_job_with_another_template_goes_on(name: str) -> None:
    from swift_thyme.host.template_check import check_job

    check_job(job(template=name))
    check_job(job(template="no such template"))
    check_job(job(model="nobody/knows-this-model"))


def test_the_template_is_found_by_the_models_name_its_type_and_its_configuration(
    tmp_path: Path,
) -> None:
    from swift_thyme.host.template_check import check_job

    folder = tmp_path / "mine"
    folder.mkdir()
    config = {"architectures": ["Qwen2AudioForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))
    for given in (
        {"model": "Qwen/Qwen2-Audio-7B-Instruct"},
        {"model": str(folder)},
        {"model": str(folder), "model_type": "qwen2_audio"},
    ):
        with pytest.raises(SettingsError, match="qwen2_audio, which takes sound"):
            check_job(job(**given))
    # The user's template counts, whatever the model is.
    check_job(job(model=str(folder), template="qwen2_5_vl"))


def test_thinking_tags_are_those_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    from swift.template import TEMPLATE_MAPPING

    from swift_thyme.core.thinking import OF_THE_PROTOCOL, ThinkingTags
    from swift_thyme.host.response_prefix import thinking_tags

    def tags(name: str) -> ThinkingTags:
        meta = TEMPLATE_MAPPING[name]
        return thinking_tags(meta.template_cls(None, meta))

    assert tags("qwen3_vl") == tags("glm4_5v") == tags("internvl_hf") == OF_THE_PROTOCOL
    assert tags("gemma4") == ThinkingTags("<|channel>thought", "<channel|>")
    assert tags("minimax_m3_vl") == ThinkingTags("<mm:think>", "</mm:think>")
    monkeypatch.setenv("THYME_THINK_TAGS", "[t] [/t]")
    assert tags("gemma4") == ThinkingTags("[t]", "[/t]")
