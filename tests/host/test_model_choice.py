"""Model type and template of a folder, found in its own files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError
from tests.families.tiny_models import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore")

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n' + SYSTEM + '<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
QWEN = "You are a helpful assistant."
MIMO = "You are MiMo, an AI assistant developed by Xiaomi."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choice") / "mine"
    FAMILIES["qwen2_5_vl"].write_without_weights(folder)
    return folder


def processor_of(folder: Path, chat_template: str | None) -> Any:
    from swift.model import get_processor

    processor = get_processor(str(folder), model_type="qwen2_5_vl", use_hf=True)
    processor.chat_template = processor.tokenizer.chat_template = chat_template
    return processor


@pytest.mark.parametrize(("system", "template"), [(QWEN, "qwen2_5_vl"), (MIMO, "mimo_vl")])
def test_the_chat_template_of_the_folder_decides(folder: Path, system: str, template: str) -> None:
    from swift_thyme.host.model_choice import choose_template

    processor = processor_of(folder, CHATML.replace("SYSTEM", f"'{system}'"))
    assert choose_template(str(folder), "qwen2_5_vl", lambda: processor) == template


@pytest.mark.parametrize("chat_template", [None, "{{ messages[0]['content'] }}", "{{ broken"])
def test_a_folder_that_leaves_it_open_asks_in_one_line(
    folder: Path, chat_template: str | None
) -> None:
    from swift_thyme.host.model_choice import choose_template

    processor = processor_of(folder, chat_template)
    with pytest.raises(SettingsError, match="--template: qwen2_5_vl, mimo_vl") as asked:
        choose_template(str(folder), "qwen2_5_vl", lambda: processor)
    assert "\n" not in str(asked.value)


def test_a_type_with_one_template_asks_for_no_processor() -> None:
    from swift_thyme.host.model_choice import choose_template

    def load() -> Any:
        raise AssertionError("not needed")

    assert choose_template("/mine", "internvl", load) is None
    assert choose_template("/x/Qwen2.5-VL-3B-Instruct", None, load) is None


def test_the_model_type_is_that_of_the_configuration() -> None:
    from swift_thyme.host.model_choice import choose_model_type

    gemma = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}
    assert choose_model_type("/mine", {"model_type": "qwen2_5_vl"}, None) == "qwen2_5_vl"
    assert choose_model_type("/mine", gemma, None) == "gemma3_vision"
    assert choose_model_type("/mine", gemma, "qwen2_vl") == "qwen2_vl"
    assert choose_model_type("/x/Qwen2.5-VL-3B-Instruct", {}, None) is None
    assert choose_model_type("/mine", {"architectures": ["Nobodys"]}, None) is None
    with pytest.raises(SettingsError, match=r"--model-type: .*, "):
        choose_model_type("/mine", {"architectures": ["MiniCPMV"]}, None)
    with pytest.raises(SettingsError, match="--model-type mine"):
        choose_model_type("/mine", {}, "mine")


def test_a_processor_can_be_a_tokenizer_alone() -> None:
    from swift_thyme.host.model_choice import _rendered

    tokenizer = SimpleNamespace(chat_template=None)
    assert _rendered(tokenizer, []) == ""
