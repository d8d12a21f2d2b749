"""Which model, in which engine: from a name or a folder to something that samples.

A checkpoint that ms-swift saved says in ``args.json`` how it was trained (template, system prompt,
pixel limits), and that is followed. The testbed's tiny model names its template in its
configuration, so ``thyme ask --model swift_thyme/testbed/model`` needs no further flag.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import EngineError, SettingsError
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES
from swift_thyme.inference.engine import Engine
from swift_thyme.inference.task import default_system_prompt
from swift_thyme.sampling.sampling_settings import VLLM_HOOK, SamplingSettings

__all__ = ["ENGINES", "ModelSettings", "describe", "open_engine", "system_prompt"]

logger = logging.getLogger(__name__)

ENGINES = ("auto", "vllm", "transformers", "openai")

_LOG_LINES = 30
_quiet = False
"""Whether `quiet_hosts` was called: a property of this process's output, hence global."""

_TESTBED_KEY = "thyme_template"
"""Key of a checkpoint's ``config.json`` that names a template of this package."""


@dataclass(frozen=True)
class ModelSettings:
    """What to open; `thyme ask --help` says it with flags."""

    model: str | None = None
    """Folder or hub name; with an endpoint the name that it serves, None for its first one."""
    engine: str = "auto"
    """``vllm``, ``transformers``, ``openai`` or ``auto``: an endpoint where one is given, else vLLM
    where there is a GPU, else transformers."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server, ending in the API version (``…/v1``)."""
    api_key: str | None = None
    model_type: str | None = None
    """ms-swift's name; None finds it in the configuration."""
    template: str | None = None
    """ms-swift's name; None takes the model's."""
    dtype: str | None = None
    """``bfloat16``, ``float16`` or ``float32``; None takes the checkpoint's, on a CPU
    float32."""
    max_model_len: int | None = None
    """Longest prompt and answer together, in tokens; None takes the model's, at most 32768."""
    max_images: int = DEFAULT_MAX_IMAGES
    """Images of the prompt and of all observations together."""
    max_pixels: int | None = None
    """Larger images are shrunk to this many pixels before the model sees them."""
    greedy_code: bool = True
    """Whether code has a temperature of its own: 0, or ``THYME_CODE_TEMPERATURE``."""
    concurrency: int = 32
    """Trajectories at once, for which the engine makes room."""
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    use_hf: bool | None = None
    """Whether a name is looked up at Hugging Face (True) or ModelScope (False); None asks the
    environment (``USE_HF``)."""
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise SettingsError(f"--engine must be one of {', '.join(ENGINES)}, not {self.engine}")
        if self.engine == "openai" and self.endpoint is None:
            raise SettingsError("--engine openai needs --endpoint URL")
        if self.endpoint is not None and self.engine not in ("auto", "openai"):
            raise SettingsError(f"--endpoint and --engine {self.engine} exclude each other")
        if self.endpoint is None and self.model is None:
            raise SettingsError("give --model, or --endpoint")
        for name in ("max_images", "concurrency", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} must be at least 1")
        if self.dtype not in (None, "bfloat16", "float16", "float32"):
            raise SettingsError(f"--dtype must be bfloat16, float16 or float32, not {self.dtype}")

    @property
    def chosen_engine(self) -> str:
        """The engine that ``auto`` stands for here."""
        if self.engine != "auto":
            return self.engine
        if self.endpoint is not None:
            return "openai"
        has_vllm = importlib.util.find_spec("vllm") is not None
        return "vllm" if has_vllm and _has_gpu() else "transformers"


def describe(settings: ModelSettings) -> dict[str, Any]:
    """Return what decides about the tokens of a model, as JSON values, without loading it."""
    return {
        "model": settings.model,
        "weights": _weights_mark(settings.model),
        "engine": settings.chosen_engine,
        "endpoint": settings.endpoint,
        "template": settings.template,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_images": settings.max_images,
        "max_pixels": settings.max_pixels,
        "sampling": _sampling(settings).as_config(),
    }


def _sampling(settings: ModelSettings) -> SamplingSettings:
    """Return what the sampling hook does; its other variables hold here as in training."""
    return SamplingSettings.from_env(adaptive=settings.greedy_code)


def _weights_mark(model: str | None) -> str | None:
    """Return what tells one state of a local checkpoint from another; None for a name."""
    if model is None or not Path(model).is_dir():
        return None
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(Path(model).iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".jinja"):
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with open(path, "rb") as file:
                # Weights are large; their first megabyte, names and sizes differ between states.
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def system_prompt(settings: ModelSettings) -> str:
    """Return the system prompt that goes with a model where the user gives none."""
    folder = _folder(settings.model)
    if _config(folder).get(_TESTBED_KEY):
        from swift_thyme.testbed.data import SYSTEM_PROMPT

        return SYSTEM_PROMPT
    system = _saved_arguments(folder).get("system")
    return system if isinstance(system, str) and system.strip() else default_system_prompt()


@asynccontextmanager
async def open_engine(settings: ModelSettings) -> AsyncIterator[Engine]:
    """Open the engine and close it at the end.

    Raises:
        SettingsError: The settings do not fit together, or a package is missing.
        EngineError: The endpoint cannot be used; the message says why.
    """
    engine: Engine
    if settings.endpoint is not None:
        from swift_thyme.inference.endpoint import connect

        engine = await connect(settings)
    else:
        _check_folder(settings.model)
        name = settings.chosen_engine
        _require(name)
        engine = _open_vllm(settings) if name == "vllm" else _open_transformers(settings)
    try:
        yield engine
    finally:
        await engine.close()


def _check_folder(model: str | None) -> None:
    if model is not None and model.startswith(("/", ".")) and _folder(model) is None:
        raise SettingsError(f"--model {model}: no such folder")


def _require(engine: str) -> None:
    for package in ("swift", "qwen_vl_utils", *(("vllm",) if engine == "vllm" else ())):
        if importlib.util.find_spec(package) is None:
            extra = "vllm" if package == "vllm" else "swift"
            raise SettingsError(
                f"--engine {engine} needs the package {package}: "
                f"pip install 'swift_thyme[{extra}]'; --endpoint URL needs neither"
            )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _folder(model: str | None) -> Path | None:
    return Path(model) if model is not None and Path(model).is_dir() else None


def _config(folder: Path | None) -> dict[str, Any]:
    return _read_json(folder / "config.json") if folder is not None else {}


def _saved_arguments(folder: Path | None) -> dict[str, Any]:
    return _read_json(folder / "args.json") if folder is not None else {}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class _Found:
    """What a checkpoint says about itself."""

    folder: str
    model_type: str | None
    template: str | None
    max_pixels: int | None


def _find(settings: ModelSettings) -> _Found:
    """Download the model where needed and read what it says about itself."""
    from swift.model import MODEL_MAPPING
    from swift.utils import safe_snapshot_download

    assert settings.model is not None
    model = settings.model
    if Path(model).is_dir():
        folder = str(Path(model).resolve())
    else:
        folder = safe_snapshot_download(model, use_hf=settings.use_hf, download_model=True)
    config, saved = _config(Path(folder)), _saved_arguments(Path(folder))
    named = config.get("model_type")
    model_type = settings.model_type or saved.get("model_type")
    if model_type is None and named in MODEL_MAPPING:
        # A folder with another name is ambiguous for ms-swift; the configuration is not.
        model_type = named
    template = settings.template or config.get(_TESTBED_KEY) or saved.get("template")
    max_pixels = settings.max_pixels or saved.get("max_pixels")
    if template == "thyme_tiny":
        from swift_thyme.host import tiny_template as tiny

        tiny.add_template()
    return _Found(folder, model_type, template, max_pixels)


def _template(processor: Any, found: _Found) -> Any:
    from swift.template import get_template

    from swift_thyme.host.template_images import install_image_accounting

    install_image_accounting()
    template = get_template(processor, template_type=found.template, max_pixels=found.max_pixels)
    if not hasattr(template, "image_token_id"):
        raise SettingsError(
            f"the template {template.template_meta.template_type} is not of the Qwen2-VL family; "
            "see --template and --model-type"
        )
    return template


def _dtype(settings: ModelSettings) -> Any:
    import torch

    if settings.dtype is not None:
        return getattr(torch, settings.dtype)
    # Without a GPU bfloat16 is emulated, many times slower than float32.
    return None if _has_gpu() else torch.float32


def _total_tokens(settings: ModelSettings, model_info: Any) -> int:
    longest = int(getattr(model_info, "max_model_len", None) or 32768)
    return min(longest, settings.max_model_len or 32768)


def _open_transformers(settings: ModelSettings) -> Engine:
    from swift.model import get_model_processor

    from swift_thyme.host.transformers_hook import install_sampling_hook
    from swift_thyme.inference.hf_engine import TransformersEngine

    found = _find(settings)
    install_sampling_hook(_sampling(settings))
    model, processor = get_model_processor(
        found.folder,
        torch_dtype=_dtype(settings),
        model_type=found.model_type,
        use_hf=settings.use_hf,
    )
    model.eval()
    return TransformersEngine(
        model,
        _template(processor, found),
        model_name=_model_name(settings),
        max_images=settings.max_images,
        max_total_tokens=_total_tokens(settings, processor.model_info),
        max_batch=min(settings.concurrency, 16),
    )


def _open_vllm(settings: ModelSettings) -> Engine:
    from swift.infer_engine import VllmEngine as HostEngine
    from swift.model import get_processor

    from swift_thyme.inference.engine_guard import OrphanGuard
    from swift_thyme.inference.vllm_engine import VllmEngine
    from swift_thyme.sandbox.processes import descendants

    found = _find(settings)
    processor = get_processor(
        found.folder,
        torch_dtype=_dtype(settings),
        model_type=found.model_type,
        use_hf=settings.use_hf,
        download_model=True,
    )
    template = _template(processor, found)
    total = _total_tokens(settings, processor.model_info)
    extra = dict(settings.engine_kwargs)
    extra["logits_processors"] = [*extra.get("logits_processors", ()), VLLM_HOOK]
    extra["additional_config"] = {
        "thyme": _sampling(settings).as_config(),
        **extra.get("additional_config", {}),
    }
    others = set(descendants(os.getpid()))
    with _own_log():
        host = HostEngine(
            found.folder,
            template=template,
            torch_dtype=_dtype(settings),
            use_async_engine=True,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            max_model_len=total,
            max_num_seqs=settings.concurrency,
            enforce_eager=not _has_gpu(),
            limit_mm_per_prompt={"image": settings.max_images, "video": 0},
            enable_prefix_caching=True,
            engine_kwargs=extra,
        )
    end_ids = host._get_stop_token_ids(
        [*template.template_meta.stop_words, template.tokenizer.eos_token_id]
    )
    return VllmEngine(
        host.engine,
        template,
        model_name=_model_name(settings),
        max_images=settings.max_images,
        max_total_tokens=total,
        end_ids=end_ids,
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
    folder = _folder(settings.model)
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
