"""Can a template of ms-swift carry images that code returns? Refused with the reason where not.

:func:`check_job` refuses what is known before anything is loaded, by the names in the command line
and in the files of the model. :func:`check_template` tries the template of a loaded model on a
small picture. That finds what nobody has listed, before the first step.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.host.image_tokens import image_tokens, keeps_placeholders

__all__ = ["check_job", "check_template", "refusal_of"]

_NO_PICTURES = "takes sound and text, and no picture"
_NO_TEXT = "its model writes no text"
_REASONS = {
    **dict.fromkeys(
        (
            *("QwenAudioTemplate", "Qwen2AudioTemplate", "Qwen3ASRTemplate", "Qwen3TTSTemplate"),
            *("StepAudioTemplate", "StepAudio2MiniTemplate", "MiDashengLMTemplate"),
            "Llama3_1OmniTemplate",
        ),
        _NO_PICTURES,
    ),
    **dict.fromkeys(
        (
            *("Qwen3_5EmbTemplate", "Qwen3VLEmbTemplate", "Qwen3VLRerankerTemplate"),
            *("GMETemplate", "JinaRerankerM0Template", "DecisionTemplate", "ClefTemplate"),
            *("OmniJevTemplate", "Emu3GenTemplate"),
        ),
        _NO_TEXT,
    ),
    "QwenVLTemplate": "writes a picture as the path of a file, which no returned image has",
    "CogTemplate": "puts its one picture at the head of the prompt",
    "Emu3ChatTemplate": "writes pictures as tokens of the vocabulary",
}
"""Class of a template, or of one that it is derived from, to why no image can be returned to it."""
_UNTRAINED = dict.fromkeys(
    ("PaddleOCRTemplate", "HunYuanVLTemplate"),
    "ms-swift 4.6 cannot train with pictures beside transformers 5.19",
)
"""The same, for what stops training alone."""


def refusal_of(name: str, *, training: bool = False) -> str | None:
    """Return why a template cannot carry images that code returns; None where nothing is known.

    Args:
        name: The template's in ms-swift.
        training: Whether its model is to be trained.
    """
    from swift.template import TEMPLATE_MAPPING
    from swift.template.constant import LLMTemplateType, MLLMTemplateType

    meta = TEMPLATE_MAPPING.get(name)
    if meta is None:
        # ms-swift says this better.
        return None
    reasons = _REASONS | (_UNTRAINED if training else {})
    for kind in meta.template_cls.__mro__:
        if kind.__name__ in reasons:
            return reasons[kind.__name__]
    if meta.template_cls.is_encoder_decoder:
        return "its model keeps prompt and answer apart, so an answer cannot be continued"
    texts, pictures = vars(LLMTemplateType).values(), vars(MLLMTemplateType).values()
    return "takes text, and no picture" if name in texts and name not in pictures else None


def check_job(arguments: Any) -> None:
    """Stop a job whose template cannot carry images that code returns.

    Args:
        arguments: ms-swift's argument object, before it has loaded anything.

    Raises:
        SettingsError: One line that names the template and the reason.
    """
    names = _templates(arguments)
    reasons = {name: refusal_of(name, training=True) for name in names}
    if names and all(reasons.values()):
        raise _refused(*next(iter(reasons.items())))


def _refused(name: str, reason: str | None) -> SettingsError:
    return SettingsError(
        f"code cannot return images to --template {name}, which {reason}; docs/families.md lists "
        "the families to which it can"
    )


def _templates(arguments: Any) -> list[str]:
    """Return the templates that the model of a job may have, as far as names and files say."""
    from swift.model import MODEL_MAPPING
    from swift.model.model_meta import get_matched_model_meta, get_matched_model_types

    chosen, model = getattr(arguments, "template", None), getattr(arguments, "model", None)
    if chosen or not model:
        return [chosen] if chosen else []
    model_type = getattr(arguments, "model_type", None)
    if model_type is None:
        meta = get_matched_model_meta(model)
        if meta is not None:
            return list(filter(None, [meta.template])) or list(meta.candidate_templates)
    types = [model_type] if model_type else get_matched_model_types(_architectures(Path(model)))
    found = (MODEL_MAPPING[name] for name in types if name in MODEL_MAPPING)
    return list(dict.fromkeys(name for meta in found for name in meta.candidate_templates))


def _architectures(folder: Path) -> list[str]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # A name of a hub, or a folder of which ms-swift says better what is wrong.
        return ["?"]
    found = config.get("architectures") if isinstance(config, dict) else None
    return found if isinstance(found, list) and found else ["?"]


def check_template(template: Any) -> None:
    """Stop where code could return no image to a model.

    Args:
        template: An ms-swift template with a ready processor.

    Raises:
        SettingsError: One line with the reason.
    """
    if template is None:
        raise SettingsError("the o3 scheduler needs a template: see --template and --model_type")
    name = template.template_meta.template_type
    reason = refusal_of(name)
    if reason is not None:
        raise _refused(name, reason)
    tokens = image_tokens(template)
    if keeps_placeholders(template):
        return
    try:
        added = _tokens_of_a_returned_image(template, list(tokens.token_ids))
    except Exception as error:
        # Templates and processors raise whatever they like.
        if template.use_model:
            # Such a template may need its model, which it does not have yet.
            return
        advice = "see docs/families.md for the versions that fit together"
        if isinstance(error, ModuleNotFoundError):
            advice = f"pip install {error.name}"
        raise SettingsError(
            f"--template {name} cannot encode a picture in an answer: {_one_line(error)}; {advice}"
        ) from error
    if added < 1:
        raise SettingsError(
            f"--template {name} leaves out pictures in an answer, so code cannot return one"
        )


def _tokens_of_a_returned_image(template: Any, image_ids: list[int]) -> int:
    """Return how many tokens a small picture in an answer takes."""
    template = copy.copy(template)
    template.mode, template.max_length = "transformers", None
    picture = Image.new("RGB", (112, 84))
    prompt = {"role": "user", "content": f"{IMAGE_TAG}x"}
    word = template.tokenizer.encode("x", add_special_tokens=False)
    lengths = []
    for answer, count in ((word, 1), ([*word, *image_ids, *word], 2)):
        messages = [prompt, {"role": "assistant", "content": answer}]
        row = {"messages": messages, "images": [picture] * count}
        lengths.append(len(template.encode(row)["input_ids"]))
    return lengths[1] - lengths[0] - len(word)


def _one_line(error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}"
