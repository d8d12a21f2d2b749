"""Which model, in which engine: from a name or a folder to something that samples.

A checkpoint that ms-swift saved says in ``args.json`` how it was trained (template, system prompt,
response prefix, pixel limits), and that is followed. The testbed's tiny model names its template in
its configuration, so ``thyme ask --model swift_thyme/testbed/model`` needs no further flag.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_thyme.core.errors import EngineError, SettingsError, ThymeError
from swift_thyme.host.contract import require
from swift_thyme.host.contract_table import Group
from swift_thyme.host.response_prefix import check_prefix
from swift_thyme.host.threads import settle_threads
from swift_thyme.inference.engine import Engine
from swift_thyme.inference.hub import find_model, one_line
from swift_thyme.inference.model_folder import (
    check_folder,
    local_folder,
    read_config,
    read_saved_arguments,
    weights_mark,
)
from swift_thyme.inference.model_settings import ENGINES, ModelSettings, has_gpu
from swift_thyme.inference.served_model import model_folder
from swift_thyme.inference.task import default_system_prompt

if TYPE_CHECKING:
    from swift_thyme.host.model_loading import Checkpoint

__all__ = [
    "ENGINES",
    "ModelSettings",
    "describe",
    "known_question",
    "open_engine",
    "system_prompt",
]

_LOG_LINES = 30
_quiet = False
"""Whether `quiet_hosts` was called: a property of this process's output, hence global."""

_TESTBED_KEY = "thyme_template"
"""Key of a checkpoint's ``config.json`` that names a template of this package."""


def describe(settings: ModelSettings) -> dict[str, Any]:
    """Return what decides about the tokens of a model, as JSON values, without loading it."""
    prefix = {"response_prefix": settings.response_prefix, "thinking": settings.enable_thinking}
    return {
        "model": settings.model,
        "weights": weights_mark(settings.model),
        "engine": settings.chosen_engine,
        "endpoint": settings.endpoint,
        "template": settings.template,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_images": settings.max_images,
        "max_pixels": settings.max_pixels,
        "sampling": settings.sampling.as_config(),
        # Results from before these flags are those without them.
        **{name: value for name, value in prefix.items() if value is not None},
    }


def system_prompt(settings: ModelSettings) -> str:
    """Return the system prompt that goes with a model where the user gives none."""
    folder = model_folder(settings)
    if read_config(folder).get(_TESTBED_KEY):
        from swift_thyme.testbed.data import SYSTEM_PROMPT

        return SYSTEM_PROMPT
    system = read_saved_arguments(folder).get("system")
    return system if isinstance(system, str) and system.strip() else default_system_prompt()


def known_question(settings: ModelSettings) -> str | None:
    """Return the one question that the embedded tiny model learnt; None for every other model."""
    if not read_config(model_folder(settings)).get(_TESTBED_KEY):
        return None
    from swift_thyme.testbed.data import QUESTION

    return QUESTION


@asynccontextmanager
async def open_engine(settings: ModelSettings) -> AsyncIterator[Engine]:
    """Open the engine and close it at the end.

    Raises:
        SettingsError: The settings do not fit together, or a package is missing.
        EngineError: The model or the endpoint cannot be used; the message says why.
        HostError: The installed ms-swift lacks a name that is needed of it.
    """
    engine: Engine
    check_prefix(settings.response_prefix or "")
    if settings.endpoint is not None:
        from swift_thyme.inference.endpoint_group import connect_all

        engine = await connect_all(_with_saved_prefix(settings))
    else:
        assert settings.model is not None
        # Before anything heavy is imported: a wrong folder is told in a moment.
        check_folder(settings.model, weights=_needs_weights(settings))
        name = settings.chosen_engine
        _require(name)
        folder = _located(settings)
        require(Group.INFERENCE, Group.IMAGES, Group.PREFIX, Group.SAMPLING)
        settle_threads(on_gpu=has_gpu())
        try:
            opener = _open_vllm if name == "vllm" else _open_transformers
            engine = opener(settings, _checkpoint(settings, folder))
        except ThymeError:
            raise
        except Exception as error:
            # ms-swift, transformers and vLLM raise whatever they like about a model.
            raise EngineError(
                f"--model {settings.model} cannot be loaded: {one_line(error)} "
                "(THYME_DEBUG=1 shows where)"
            ) from error
    try:
        yield engine
    finally:
        await engine.close()


def _with_saved_prefix(settings: ModelSettings) -> ModelSettings:
    """Return settings of an endpoint with the response prefix that its checkpoint names."""
    prefix = settings.response_prefix
    if prefix is None:
        prefix = read_saved_arguments(model_folder(settings)).get("response_prefix")
    return replace(settings, response_prefix=prefix)


def _require(engine: str) -> None:
    for package in ("swift", "qwen_vl_utils", *(("vllm",) if engine == "vllm" else ())):
        if importlib.util.find_spec(package) is None:
            extra = "vllm" if package == "vllm" else "swift"
            raise SettingsError(
                f"--engine {engine} needs the package {package}: "
                f"pip install 'swift_thyme[{extra}]'; --endpoint URL needs neither"
            )


def _located(settings: ModelSettings) -> Path:
    """Return the folder of the model, which is downloaded where needed.

    Raises:
        SettingsError: What was downloaded is no whole model.
        EngineError: There is no such model.
    """
    assert settings.model is not None
    here = local_folder(settings.model)
    if here is not None:
        return here.resolve()
    folder = find_model(settings.model, settings.use_hf)
    check_folder(folder, weights=_needs_weights(settings))
    return Path(folder)


def _needs_weights(settings: ModelSettings) -> bool:
    """Tell whether the model's own weights are read; vLLM can also make some up."""
    return "load_format" not in settings.engine_kwargs


def _checkpoint(settings: ModelSettings, folder: Path) -> Checkpoint:
    """Return what a model says about itself, and the flags that override it."""
    from swift_thyme.host.model_choice import choose_model_type
    from swift_thyme.host.model_loading import Checkpoint

    config, saved = read_config(folder), read_saved_arguments(folder)
    given = settings.model_type or saved.get("model_type")
    model_type = choose_model_type(str(folder), config, given)
    prefix, thinking = settings.response_prefix, settings.enable_thinking
    if prefix is None and thinking is None:
        # One of the two flags overrides both of the checkpoint's: for ms-swift the text wins.
        prefix, thinking = saved.get("response_prefix"), saved.get("enable_thinking")
    return Checkpoint(
        str(folder),
        model_type,
        settings.template or config.get(_TESTBED_KEY) or saved.get("template"),
        settings.max_pixels or saved.get("max_pixels"),
        settings.use_hf,
        prefix,
        thinking,
    )


def _dtype(settings: ModelSettings) -> Any:
    import torch

    if settings.dtype is not None:
        return getattr(torch, settings.dtype)
    # Without a GPU bfloat16 is emulated, many times slower than float32.
    return None if has_gpu() else torch.float32


def _total_tokens(settings: ModelSettings, template: Any) -> int:
    from swift_thyme.host.model_loading import longest_context

    return min(longest_context(template) or 32768, settings.max_model_len or 32768)


def _open_transformers(settings: ModelSettings, checkpoint: Checkpoint) -> Engine:
    from swift_thyme.host.model_loading import load_model
    from swift_thyme.inference.hf_engine import TransformersEngine

    model, template = load_model(checkpoint, _dtype(settings), settings.sampling)
    return TransformersEngine(
        model,
        template,
        model_name=_model_name(settings),
        max_images=settings.max_images,
        max_total_tokens=_total_tokens(settings, template),
        max_batch=min(settings.concurrency, 16),
    )


def _open_vllm(settings: ModelSettings, checkpoint: Checkpoint) -> Engine:
    from swift_thyme.host.model_loading import end_token_ids, load_template, start_vllm
    from swift_thyme.inference.engine_guard import OrphanGuard
    from swift_thyme.inference.vllm_engine import VllmEngine
    from swift_thyme.sandbox.processes import descendants

    template = load_template(checkpoint, _dtype(settings))
    total = _total_tokens(settings, template)
    options = {
        "torch_dtype": _dtype(settings),
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_model_len": total,
        "max_num_seqs": settings.concurrency,
        "enforce_eager": not has_gpu(),
        "limit_mm_per_prompt": {"image": settings.max_images, "video": 0},
        "enable_prefix_caching": True,
    }
    engine_kwargs = dict(settings.engine_kwargs)
    if not has_gpu():
        # Where a prompt is computed in pieces, vLLM 0.23 turns the request's generator of random
        # numbers back, which torch's generators of processors cannot do: the engine would end.
        engine_kwargs.setdefault("enable_chunked_prefill", False)
    if settings.data_parallel_size > 1:
        engine_kwargs["data_parallel_size"] = settings.data_parallel_size
    others = set(descendants(os.getpid()))
    with _own_log():
        host = start_vllm(checkpoint, template, settings.sampling, options, engine_kwargs)
    return VllmEngine(
        host.engine,
        template,
        model_name=_model_name(settings),
        max_images=settings.max_images,
        max_total_tokens=total,
        end_ids=end_token_ids(host, template),
        guard=OrphanGuard(others),
    )


@contextmanager
def _own_log() -> Iterator[None]:
    """Keep what the engine's processes write to standard error out of a command's output.

    They inherit the descriptor, so it points at a file while they are started. Where starting
    fails, the end of that file is in the error.

    Raises:
        EngineError: The engine could not be started.
    """
    if not _quiet:
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        before = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except ThymeError:
            # Ours says what is missing before anything was started: its line is enough.
            raise
        except Exception as error:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
            said = "\n".join(lines)
            raise EngineError(f"the engine could not be started: {error}\n{said}") from error
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def _model_name(settings: ModelSettings) -> str:
    folder = local_folder(settings.model)
    name = folder.resolve().name if folder is not None else str(settings.model)
    if folder is not None and name == "model":
        name = f"{folder.resolve().parent.name}-{name}"
    return name.rpartition("/")[2]


def quiet_hosts() -> None:
    """Keep ms-swift, vLLM and transformers from talking into a command's output.

    Must be called before they are imported; what the environment says stays.
    """
    global _quiet
    _quiet = True
    for name, value in (
        ("LOG_LEVEL", "ERROR"),
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TQDM_DISABLE", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
