"""Which model type and which template of ms-swift a folder needs, as far as its own files say.

ms-swift knows a model by the name of its folder. A folder with another name leaves open what
several releases share: Qwen2.5-VL and MiMo-VL have one class, and so have GLM-4.1V and GLM-4.6V.
Their chat templates differ, and each folder holds its own. The template of ms-swift that writes the
same prompt is the one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swift_thyme.core.errors import SettingsError

__all__ = ["choose_model_type", "choose_template"]

_QUESTION = "How many?"


def choose_model_type(folder: str, config: Mapping[str, Any], given: str | None) -> str | None:
    """Return ms-swift's model type for a folder; None where ms-swift finds it by the folder's name.

    Args:
        folder: The model's.
        config: What its ``config.json`` says.
        given: What the user or ``args.json`` says.

    Raises:
        SettingsError: There is no such type, or several fit.
    """
    from swift.model import MODEL_MAPPING
    from swift.model.model_meta import get_matched_model_meta, get_matched_model_types

    if given is not None:
        if given not in MODEL_MAPPING:
            raise SettingsError(f"--model-type {given}: ms-swift has no such model type")
        return given
    if get_matched_model_meta(folder) is not None:
        return None
    named = config.get("model_type")
    if named in MODEL_MAPPING:
        return str(named)
    fitting = get_matched_model_types(config.get("architectures") or ["?"])
    if len(fitting) > 1:
        raise SettingsError(
            f"--model {folder}: its files fit several model types of ms-swift; say which with "
            f"--model-type: {', '.join(fitting)}"
        )
    return fitting[0] if fitting else None


def choose_template(
    folder: str, model_type: str | None, load_processor: Callable[[], Any]
) -> str | None:
    """Return ms-swift's template for a folder; None where the model type has one alone.

    Args:
        folder: The model's.
        model_type: Its type, None where ms-swift finds it.
        load_processor: Returns its processor, which holds the chat template; called where needed.

    Raises:
        SettingsError: Several templates fit, or none of several.
    """
    from swift.model import MODEL_MAPPING
    from swift.model.model_meta import get_matched_model_meta

    meta = get_matched_model_meta(folder)
    if model_type is not None and getattr(meta, "model_type", None) != model_type:
        meta = MODEL_MAPPING[model_type]
    if meta is None or meta.template is not None or len(meta.candidate_templates) < 2:
        return None
    processor = load_processor()
    fitting = [name for name in meta.candidate_templates if _fits(name, processor)]
    if len(fitting) == 1:
        return str(fitting[0])
    raise SettingsError(
        f"--model {folder}: its files {_words(fitting)} of ms-swift; say which with --template: "
        f"{', '.join(fitting or meta.candidate_templates)}"
    )


def _words(fitting: Sequence[str]) -> str:
    return "fit several templates" if fitting else "decide for none of several templates"


def _fits(name: str, processor: Any) -> bool:
    """Tell whether a template writes the prompt that the folder's own chat template writes."""
    from swift.template import get_template

    tokenizer = getattr(processor, "tokenizer", processor)
    messages = [{"role": "user", "content": _QUESTION}]
    try:
        wanted = _rendered(processor, messages)
        ids = get_template(processor, template_type=name).encode({"messages": messages})
    except Exception:  # noqa: BLE001 - Jinja, tokenizers and templates raise whatever they like
        return False
    written = str(tokenizer.decode(ids["input_ids"], skip_special_tokens=False))
    # The chat template may leave the thought to the model, or open it.
    return bool(wanted) and (written.startswith(wanted) or wanted.startswith(written))


def _rendered(processor: Any, messages: list[dict[str, str]]) -> str:
    tokenizer = getattr(processor, "tokenizer", processor)
    own = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if not own:
        return ""
    return str(
        tokenizer.apply_chat_template(
            messages, chat_template=own, tokenize=False, add_generation_prompt=True
        )
    )
