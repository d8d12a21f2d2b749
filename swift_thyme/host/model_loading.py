"""Models through ms-swift: a folder or a hub name to a processor, a template, a model or an engine.

Used outside training; a training job loads its model itself. The choice of the engine and of its
limits is the caller's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from swift_thyme.host.contract import require
from swift_thyme.host.contract_table import Group
from swift_thyme.host.cpu_vllm import free_share
from swift_thyme.host.model_on_disk import look_at_model
from swift_thyme.host.template_check import check_template
from swift_thyme.sampling.sampling_settings import VLLM_HOOK, SamplingSettings

__all__ = [
    "Checkpoint",
    "end_token_ids",
    "fetch_model",
    "load_model",
    "load_template",
    "longest_context",
    "start_vllm",
]

_FLOAT32_BYTES = 4
"""Of a parameter on a CPU, where 16 bits are emulated."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's folder, and how ms-swift is to read it."""

    folder: str
    model_type: str | None = None
    """ms-swift's name; None finds it in the configuration."""
    template: str | None = None
    """ms-swift's name; None takes the model's."""
    max_pixels: int | None = None
    use_hf: bool | None = None
    response_prefix: str | None = None
    """Text in front of what the model samples; None leaves it to the template."""
    enable_thinking: bool | None = None
    """Which of its prefixes the template takes; None leaves it to the template."""


def fetch_model(name: str, use_hf: bool | None) -> str:
    """Download a model where needed and return its folder.

    Args:
        name: Name at a hub.
        use_hf: Whether it is looked up at Hugging Face; None asks the environment.
    """
    from swift.utils import safe_snapshot_download

    return str(safe_snapshot_download(name, use_hf=use_hf, download_model=True))


def _template(processor: Any, checkpoint: Checkpoint) -> Any:
    from swift.template import get_template

    from swift_thyme.host.response_prefix import install_prefix_accounting, prefix_of
    from swift_thyme.host.template_images import install_image_accounting
    from swift_thyme.host.template_repairs import install_template_repairs

    if checkpoint.template == "thyme_tiny":
        require(Group.TESTBED)
        from swift_thyme.host import tiny_template

        tiny_template.add_template()
    install_image_accounting()
    install_template_repairs()
    install_prefix_accounting()
    template = get_template(
        processor,
        template_type=checkpoint.template,
        max_pixels=checkpoint.max_pixels,
        response_prefix=checkpoint.response_prefix,
        enable_thinking=checkpoint.enable_thinking,
    )
    check_template(template)
    # Here rather than at the first request, which would be too late for a wrong flag.
    prefix_of(template)
    return template


def load_model(checkpoint: Checkpoint, dtype: Any, sampling: SamplingSettings) -> tuple[Any, Any]:
    """Return a transformers model, ready to generate with the sampling hook, and its template.

    Args:
        checkpoint: What to load.
        dtype: A torch data type; None takes the checkpoint's.
        sampling: What the hook does.

    Raises:
        SettingsError: Code could return no image to a model of this template, or several templates
            fit.
    """
    from swift.model import get_model_processor

    from swift_thyme.host.model_choice import choose_template
    from swift_thyme.host.template_repairs import repair_loaded_models
    from swift_thyme.host.transformers_hook import install_sampling_hook

    if checkpoint.template is None:
        # Before the weights are read: a question for the user is put in a moment.
        load = functools.partial(_processor, checkpoint, dtype)
        chosen = choose_template(checkpoint.folder, checkpoint.model_type, load)
        checkpoint = replace(checkpoint, template=chosen)
    install_sampling_hook(sampling)
    model, processor = get_model_processor(
        checkpoint.folder,
        torch_dtype=dtype,
        model_type=checkpoint.model_type,
        use_hf=checkpoint.use_hf,
    )
    repair_loaded_models()
    model.eval()
    return model, _template(processor, checkpoint)


def load_template(checkpoint: Checkpoint, dtype: Any) -> Any:
    """Return the template of a model that is not loaded here.

    Raises:
        SettingsError: Code could return no image to a model of this template.
    """
    from swift_thyme.host.model_choice import choose_template

    processor = _processor(checkpoint, dtype)
    if checkpoint.template is None:
        chosen = choose_template(checkpoint.folder, checkpoint.model_type, lambda: processor)
        checkpoint = replace(checkpoint, template=chosen)
    return _template(processor, checkpoint)


def _processor(checkpoint: Checkpoint, dtype: Any) -> Any:
    from swift.model import get_processor

    return get_processor(
        checkpoint.folder,
        torch_dtype=dtype,
        model_type=checkpoint.model_type,
        use_hf=checkpoint.use_hf,
        download_model=True,
    )


def longest_context(template: Any) -> int | None:
    """Return the longest prompt and answer together that the model takes; None where unknown."""
    longest = template.model_info.max_model_len
    return int(longest) if longest else None


def start_vllm(
    checkpoint: Checkpoint,
    template: Any,
    sampling: SamplingSettings,
    options: dict[str, Any],
    engine_kwargs: dict[str, Any],
) -> Any:
    """Start vLLM's asynchronous engine with the sampling hook, and return ms-swift's handle of it.

    Args:
        checkpoint: What to load.
        template: Its template.
        sampling: What the hook does.
        options: Arguments of ms-swift's ``VllmEngine``.
        engine_kwargs: Further arguments of vLLM's own.

    Raises:
        EngineError: A CPU has too little free memory for it.
    """
    from swift.infer_engine import VllmEngine

    parameters = look_at_model(checkpoint.folder).parameters or 0
    share = free_share(options["gpu_memory_utilization"], parameters * _FLOAT32_BYTES)
    options = {**options, "gpu_memory_utilization": share}

    extra = dict(engine_kwargs)
    extra["logits_processors"] = [*extra.get("logits_processors", ()), VLLM_HOOK]
    extra["additional_config"] = {
        "thyme": sampling.as_config(),
        **extra.get("additional_config", {}),
    }
    return VllmEngine(
        checkpoint.folder, template=template, use_async_engine=True, engine_kwargs=extra, **options
    )


def end_token_ids(host: Any, template: Any) -> list[int]:
    """Return the ids that end a text.

    Args:
        host: What :func:`start_vllm` returned.
        template: The model's template.
    """
    find: Callable[[list[Any]], list[int]] = host._get_stop_token_ids
    return find([*template.template_meta.stop_words, template.tokenizer.eos_token_id])
