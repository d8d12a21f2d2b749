"""The options that ``thyme ask``, ``thyme serve`` and ``thyme eval`` share, declared once.

typer reads a command's options from the signature of its function. So a command takes one object,
:class:`ModelOptions`, and :func:`with_model_options` shows typer that object's fields instead.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES, DEFAULT_MAX_TURNS
from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.loop import DEFAULT_MAX_TOKENS, LoopSettings
from swift_thyme.inference.model import ModelSettings, system_prompt
from swift_thyme.sampling.sampling_settings import SamplingSettings

__all__ = ["ModelOptions", "finite", "with_model_options"]

_CONCURRENCY = 32
"""Trajectories at once, of each copy of the model."""
_OPTIONS = "options"

_model = functools.partial(typer.Option, rich_help_panel="Model and engine")
_sampling = functools.partial(typer.Option, rich_help_panel="Sampling")
_limit = functools.partial(typer.Option, rich_help_panel="Limits")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The values of the shared options."""

    model: Annotated[
        str | None,
        _model("--model", help="Folder or hub name of the model."),
    ] = None
    use_hf: Annotated[
        bool | None,
        _model(
            "--use-hf/--no-use-hf",
            help="Look a name up at Hugging Face, not at ModelScope; default: USE_HF.",
        ),
    ] = None
    engine: Annotated[
        str,
        _model(
            "--engine",
            help="vllm, transformers, openai, or auto: vllm where there is a GPU, "
            "else transformers.",
        ),
    ] = "auto"
    endpoint: Annotated[
        str | None,
        _model(
            "--endpoint",
            help="OpenAI-compatible server that samples instead (http://host:8000/v1); several "
            "with commas.",
        ),
    ] = None
    endpoint_key: Annotated[
        str | None,
        _model(
            "--endpoint-key",
            help="Bearer token for --endpoint.",
            envvar="OPENAI_API_KEY",
            show_envvar=True,
        ),
    ] = None
    model_type: Annotated[
        str | None,
        _model("--model-type", help="ms-swift's model type, where config.json leaves it open."),
    ] = None
    template: Annotated[
        str | None,
        _model("--template", help="ms-swift's template."),
    ] = None
    response_prefix: Annotated[
        str | None,
        _model(
            "--response-prefix",
            help="Text in front of what the model samples, such as '<think>\\n'; default: the "
            "checkpoint's, else the template's.",
        ),
    ] = None
    thinking: Annotated[
        bool | None,
        _model(
            "--thinking/--no-thinking",
            help="Whether the template of a thinking model opens a thought; default: as trained.",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        _model(
            "--dtype",
            help="bfloat16, float16 or float32; default: the checkpoint's, on a CPU float32.",
        ),
    ] = None
    gpu_memory_utilization: Annotated[
        float,
        _model("--gpu-memory-utilization", help="Share that vLLM takes."),
    ] = 0.9
    tensor_parallel_size: Annotated[
        int, _model("--tensor-parallel-size", help="GPUs of a copy of the model in vLLM.")
    ] = 1
    data_parallel_size: Annotated[
        int,
        _model(
            "--data-parallel-size",
            help="Copies of the model in vLLM, each on GPUs of its own, behind one queue.",
        ),
    ] = 1
    engine_kwargs: Annotated[
        str | None,
        _model("--engine-kwargs", help="Further arguments of vLLM, as JSON."),
    ] = None
    system: Annotated[
        str | None,
        _model(
            "--system",
            help="System prompt, or a file that holds it; default: the one of the recipe.",
        ),
    ] = None
    temperature: Annotated[
        float,
        _sampling("--temperature", help="0 is greedy."),
    ] = 0.0
    top_p: Annotated[float, _sampling("--top-p")] = 1.0
    top_k: Annotated[int, _sampling("--top-k", help="0: all tokens.")] = 0
    repetition_penalty: Annotated[float, _sampling("--repetition-penalty")] = 1.0
    greedy_code: Annotated[
        bool,
        _sampling("--greedy-code/--sample-code", help="Code at temperature 0 whatever the text's."),
    ] = True
    seed: Annotated[int, _sampling("--seed")] = 0
    max_turns: Annotated[
        int,
        _limit(
            "--max-turns",
            help="Turns; the last one cannot run code.",
            envvar="GEN_ITER_LIMIT",
            show_envvar=True,
            min=1,
        ),
    ] = DEFAULT_MAX_TURNS
    max_tokens: Annotated[
        int,
        _limit("--max-tokens", help="Sampled tokens, all turns.", min=1),
    ] = DEFAULT_MAX_TOKENS
    max_model_len: Annotated[
        int | None,
        _limit("--max-model-len", help="Prompt and answer together, in tokens.", min=1),
    ] = None
    max_images: Annotated[
        int,
        _limit("--max-images", help="Returned images included.", min=1),
    ] = DEFAULT_MAX_IMAGES
    max_pixels: Annotated[
        int | None,
        _limit(
            "--max-pixels",
            help="Larger images are shrunk to this before the model sees them.",
            envvar="MAX_PIXELS",
            show_envvar=True,
            min=1,
        ),
    ] = None

    def at_once(self, given: int | None) -> int:
        """Return how many trajectories run at once, where a command was given a number or none."""
        return given or _CONCURRENCY * max(1, self.data_parallel_size)

    def model_settings(self, *, concurrency: int, per_request: bool = False) -> ModelSettings:
        """Return the model and the engine that the options name; reads the environment.

        Args:
            concurrency: Trajectories at once.
            per_request: Whether a request may have a temperature of its own.

        Raises:
            SettingsError: Options do not fit together, or a variable cannot be used.
        """
        # At temperature 0 all tokens are greedy, and telling code from text is work for nothing.
        adaptive = self.greedy_code and (per_request or self.temperature > 0)
        return ModelSettings(
            model=self.model,
            use_hf=self.use_hf,
            engine=self.engine,
            endpoint=self.endpoint,
            api_key=self.endpoint_key,
            model_type=self.model_type,
            template=self.template,
            response_prefix=_unescaped(self.response_prefix),
            enable_thinking=self.thinking,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            max_images=self.max_images,
            max_pixels=self.max_pixels,
            sampling=SamplingSettings.from_env(adaptive=adaptive),
            concurrency=concurrency,
            gpu_memory_utilization=self.gpu_memory_utilization,
            tensor_parallel_size=self.tensor_parallel_size,
            data_parallel_size=self.data_parallel_size,
            engine_kwargs=_engine_kwargs(self.engine_kwargs),
        )

    def loop_settings(self, model: ModelSettings, *, tools: bool = True) -> LoopSettings:
        """Return how trajectories are run.

        Args:
            model: What :meth:`model_settings` returned.
            tools: Whether code runs.

        Raises:
            SettingsError: A value is out of its range; the message names the flag.
        """
        drawn: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
        }
        for name, value in drawn.items():
            try:
                Sampling(**{name: value})
            except SettingsError as error:
                raise SettingsError(f"--{name.replace('_', '-')}: {error}") from error
        return LoopSettings(
            sampling=Sampling(**drawn, seed=self.seed),
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            tools=tools,
            stop_repetition=model.sampling.stop_repetition,
        )

    def system_prompt(self, model: ModelSettings) -> str:
        """Return the system prompt: the given text, the file it names, or the model's own.

        Raises:
            DataError: The file cannot be read.
        """
        if self.system is None:
            return system_prompt(model)
        if not _names_file(self.system):
            return self.system
        try:
            return Path(self.system).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise DataError(f"--system {self.system}: {error}") from error


def finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which typer's ranges let pass; the callback of an option.

    Raises:
        BadParameter: It is one of them; typer's message names the option.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, after its own.

    Args:
        command: Has a parameter ``options``, which is a :class:`ModelOptions`.

    Returns:
        The command as typer is to see it.
    """
    hints = get_type_hints(ModelOptions, include_extras=True)
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [parameter for name, parameter in own.items() if name != _OPTIONS]
    parameters += [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(ModelOptions)
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = ModelOptions(**{name: values.pop(name) for name in hints})
        command(**{_OPTIONS: options}, **values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _names_file(text: str) -> bool:
    """Tell whether a text is the path of a file, there or not, rather than a prompt.

    A prompt is a sentence: one word that ends like a file, or that is there, is none.
    """
    if len(text) >= 4096 or "\n" in text:
        return False
    return os.path.exists(text) or (
        len(text.split()) == 1 and text.lower().endswith((".txt", ".md"))
    )


def _unescaped(text: str | None) -> str | None:
    r"""Return text in which ``\n`` is a line break, as in ms-swift's ``--response_prefix``."""
    return text if text is None else text.replace("\\n", "\n")


def _engine_kwargs(text: str | None) -> dict[str, Any]:
    """Return the value of ``--engine-kwargs``.

    Raises:
        SettingsError: It is not a JSON object, or an entry that is added to has another type.
    """
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"--engine-kwargs is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError("--engine-kwargs must be a JSON object")
    for name, kind, words in (
        ("logits_processors", list, "a list"),
        ("additional_config", dict, "an object"),
    ):
        if not isinstance(value.get(name, kind()), kind):
            raise SettingsError(f"--engine-kwargs: {name} must be {words}")
    return value
