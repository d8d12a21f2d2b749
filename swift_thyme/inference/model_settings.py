"""Which model is wanted, and in which engine; nothing is loaded here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES
from swift_thyme.sampling.sampling_settings import SamplingSettings

__all__ = ["ENGINES", "ModelSettings", "has_gpu"]

ENGINES = ("auto", "vllm", "transformers", "openai")


@dataclass(frozen=True)
class ModelSettings:
    """What to open; `thyme ask --help` says it with flags."""

    model: str | None = None
    """Folder or hub name; with an endpoint the name that it serves, None for its first one."""
    engine: str = "auto"
    """``vllm``, ``transformers``, ``openai`` or ``auto``: an endpoint where one is given, else vLLM
    where there is a GPU, else transformers."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server, ending in the API version (``…/v1``); several with
    commas between them serve the same model."""
    api_key: str | None = None
    model_type: str | None = None
    """ms-swift's name; None finds it in the configuration."""
    template: str | None = None
    """ms-swift's name; None takes the model's."""
    response_prefix: str | None = None
    """Text in front of what the model samples; None takes the checkpoint's, else the template's."""
    enable_thinking: bool | None = None
    """Whether a template of a thinking model opens a thought; None takes the checkpoint's, else the
    template's."""
    dtype: str | None = None
    """``bfloat16``, ``float16`` or ``float32``; None takes the checkpoint's, on a CPU
    float32."""
    max_model_len: int | None = None
    """Longest prompt and answer together, in tokens; None takes the model's, at most 32768."""
    max_images: int = DEFAULT_MAX_IMAGES
    """Images of the prompt and of all observations together."""
    max_pixels: int | None = None
    """Larger images are shrunk to this many pixels before the model sees them."""
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(adaptive=True))
    """What the sampling hook does; :meth:`SamplingSettings.from_env` asks the environment."""
    concurrency: int = 32
    """Trajectories at once, for which the engine makes room."""
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    """Copies of the model in vLLM, each on ``tensor_parallel_size`` GPUs of its own."""
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
        if self.endpoint is not None and not self.endpoints:
            raise SettingsError("--endpoint is empty: give it a URL")
        if self.endpoint is not None and self.engine not in ("auto", "openai"):
            raise SettingsError(f"--endpoint and --engine {self.engine} exclude each other")
        if self.endpoint is None and self.model is None:
            raise SettingsError("give --model, or --endpoint")
        if self.endpoint is not None and self.enable_thinking is not None:
            raise SettingsError(
                "--thinking and --endpoint exclude each other: the server's template decides; "
                "give --response-prefix the text that it puts in front"
            )
        for name in ("max_images", "concurrency", "tensor_parallel_size", "data_parallel_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} must be at least 1")
        if self.data_parallel_size > 1:
            self._check_copies()
        if not 0 < self.gpu_memory_utilization <= 1:
            raise SettingsError(
                "--gpu-memory-utilization must be more than 0 and at most 1, not "
                f"{self.gpu_memory_utilization}"
            )
        if self.dtype not in (None, "bfloat16", "float16", "float32"):
            raise SettingsError(f"--dtype must be bfloat16, float16 or float32, not {self.dtype}")

    def _check_copies(self) -> None:
        if self.chosen_engine != "vllm":
            raise SettingsError(
                f"--data-parallel-size {self.data_parallel_size} needs vLLM (--engine vllm)"
            )
        import torch

        needed = self.data_parallel_size * self.tensor_parallel_size
        if has_gpu() and needed > torch.cuda.device_count():
            raise SettingsError(
                f"--data-parallel-size {self.data_parallel_size} with --tensor-parallel-size "
                f"{self.tensor_parallel_size} needs {needed} GPUs, and there are "
                f"{torch.cuda.device_count()}"
            )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The base URLs, none without an endpoint."""
        return tuple(filter(None, (url.strip() for url in (self.endpoint or "").split(","))))

    @property
    def chosen_engine(self) -> str:
        """The engine that ``auto`` stands for here."""
        if self.engine != "auto":
            return self.engine
        if self.endpoint is not None:
            return "openai"
        has_vllm = importlib.util.find_spec("vllm") is not None
        return "vllm" if has_vllm and has_gpu() else "transformers"


def has_gpu() -> bool:
    """Tell whether torch sees a GPU."""
    import torch

    return torch.cuda.is_available()
