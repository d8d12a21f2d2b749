"""The real ms-swift template, with the tiny model's tokenizer and with one that merges."""

from typing import Any

import pytest

from tests.sft.tokenizers import merging_tokenizer, with_tokenizer


def make_template(processor: Any) -> Any:
    from swift.template import get_template

    template = get_template(processor, template_type="thyme_tiny", loss_scale="thyme")
    template.set_mode("train")
    return template


@pytest.fixture(scope="session")
def templates() -> dict[str, Any]:
    from swift.model import get_model_processor

    from swift_thyme.host import loss_scale, tiny_template
    from swift_thyme.host.template_images import install_image_accounting
    from tests.conftest import TINY_MODEL

    install_image_accounting()
    tiny_template.add_template()
    loss_scale.add_loss_scale()
    _, processor = get_model_processor(
        str(TINY_MODEL), load_model=False, model_type="qwen2_5_vl", use_hf=True
    )
    merging = with_tokenizer(processor, merging_tokenizer(processor.tokenizer))
    return {"tiny": make_template(processor), "merging": make_template(merging)}
