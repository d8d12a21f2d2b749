"""Command-line options that ``thyme ask``, ``thyme serve`` and ``thyme eval`` share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.inference.model import ModelSettings, system_prompt

__all__ = ["read_system", "model_settings"]

_MODEL, _SAMPLING, _LIMITS = "Model and engine", "Sampling", "Limits"

Model = Annotated[
    str | None,
    typer.Option("--model", help="Folder or hub name of the model.", rich_help_panel=_MODEL),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="vllm, transformers, openai, or auto: vllm where there is a GPU, else transformers.",
        rich_help_panel=_MODEL,
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="OpenAI-compatible server that samples instead (http://host:8000/v1).",
        rich_help_panel=_MODEL,
    ),
]
EndpointKey = Annotated[
    str | None,
    typer.Option(
        "--endpoint-key",
        help="Bearer token for --endpoint.",
        envvar="OPENAI_API_KEY",
        show_envvar=True,
        rich_help_panel=_MODEL,
    ),
]
ModelType = Annotated[
    str | None,
    typer.Option(
        "--model-type",
        help="ms-swift's model type, where config.json leaves it open.",
        rich_help_panel=_MODEL,
    ),
]
Template = Annotated[
    str | None,
    typer.Option("--template", help="ms-swift's template.", rich_help_panel=_MODEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="bfloat16, float16 or float32; default: the checkpoint's, on a CPU float32.",
        rich_help_panel=_MODEL,
    ),
]
GpuMemory = Annotated[
    float,
    typer.Option("--gpu-memory-utilization", help="Share that vLLM takes.", rich_help_panel=_MODEL),
]
TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel-size", help="GPUs of vLLM.", rich_help_panel=_MODEL)
]
EngineKwargs = Annotated[
    str | None,
    typer.Option(
        "--engine-kwargs", help="Further arguments of vLLM, as JSON.", rich_help_panel=_MODEL
    ),
]
System = Annotated[
    str | None,
    typer.Option(
        "--system",
        help="System prompt, or a file that holds it; default: the one of the recipe.",
        rich_help_panel=_MODEL,
    ),
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", help="0 is greedy.", rich_help_panel=_SAMPLING),
]
TopP = Annotated[float, typer.Option("--top-p", rich_help_panel=_SAMPLING)]
TopK = Annotated[int, typer.Option("--top-k", help="0: all tokens.", rich_help_panel=_SAMPLING)]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", rich_help_panel=_SAMPLING)
]
GreedyCode = Annotated[
    bool,
    typer.Option(
        "--greedy-code/--sample-code",
        help="Code at temperature 0 whatever the text's.",
        rich_help_panel=_SAMPLING,
    ),
]
Seed = Annotated[int, typer.Option("--seed", rich_help_panel=_SAMPLING)]
MaxTurns = Annotated[
    int,
    typer.Option(
        "--max-turns",
        help="Turns; the last one cannot run code.",
        envvar="GEN_ITER_LIMIT",
        show_envvar=True,
        rich_help_panel=_LIMITS,
        min=1,
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", help="Sampled tokens, all turns.", rich_help_panel=_LIMITS, min=1),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        help="Prompt and answer together, in tokens.",
        rich_help_panel=_LIMITS,
        min=1,
    ),
]
MaxImages = Annotated[
    int,
    typer.Option("--max-images", help="Returned images included.", rich_help_panel=_LIMITS, min=1),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        help="Larger images are shrunk to this before the model sees them.",
        envvar="MAX_PIXELS",
        show_envvar=True,
        rich_help_panel=_LIMITS,
        min=1,
    ),
]


def model_settings(engine_kwargs: str | None, **values: Any) -> ModelSettings:
    """Return the settings that the options say.

    Raises:
        SettingsError: They do not fit together.
    """
    extra: Any = {}
    if engine_kwargs:
        try:
            extra = json.loads(engine_kwargs)
        except ValueError as error:
            raise SettingsError(f"--engine-kwargs is not JSON: {error}") from error
        if not isinstance(extra, dict):
            raise SettingsError("--engine-kwargs must be a JSON object")
    return ModelSettings(engine_kwargs=extra, **values)


def read_system(system: str | None, settings: ModelSettings) -> str:
    """Return the system prompt: the given text, the file it names, or the model's own."""
    if system is None:
        return system_prompt(settings)
    if len(system) < 4096 and os.path.isfile(system):
        try:
            return Path(system).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise DataError(f"--system {system}: {error}") from error
    return system
