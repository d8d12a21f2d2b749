"""The ``--O3`` flag of ``swift rlhf --rlhf_type grpo``, ``swift rollout`` and ``swift sft``.

ms-swift imports ``--external_plugins`` while it builds its argument object, that is after the
command line has been split into known and unknown flags and before anything is done with either.
:func:`accept_o3_flag`, called from a plugin file, uses that moment: it takes ``--O3`` out of the
unknown flags, so that a mistyped flag still stops with ms-swift's own error, and fills in the
argument object what the user left open. Nothing of ms-swift is subclassed or restarted, the
argument object stays picklable, and ``O3`` lands in ``args.json`` like every other argument.

A job in which the flag would do nothing, or in which a flag beside it would, is refused first; see
:mod:`swift_thyme.host.flag_check`.

What ``--O3 true`` fills (never what the user has set):

===================================  =====================================================
``multi_turn_scheduler``             ``o3``
``max_turns``                        ``GEN_ITER_LIMIT`` (4)
``stop_words``                       ``</code>`` and ``</answer>`` are added; ``<code>`` is
                                     taken out and gives code a temperature of its own
``vllm_limit_mm_per_prompt``         ``{"image": 6, "video": 0}``
``callbacks``                        ``thyme`` is added (trajectory metrics)
``vllm_engine_kwargs``               the sampling hook and its settings are added
``vllm_use_async_engine``            true, for ``swift rollout``
``loss_scale``                       ``thyme``, for ``swift sft``, ``megatron sft``, and for the
                                     demonstrations of ``--chord_sft_dataset``
===================================  =====================================================
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import multiprocessing
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from swift_thyme.core.environment import Reader, parse_switch, speaks_for_the_job
from swift_thyme.core.errors import HostError, SettingsError
from swift_thyme.core.protocol import CODE_OPEN, STOP_STRINGS
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES, DEFAULT_MAX_TURNS
from swift_thyme.host.flag_check import check_flags, warn_about_scheduler
from swift_thyme.host.flag_row import Job, job_of
from swift_thyme.host.full_disks import explain_full_disks
from swift_thyme.host.preflight import log_preflight
from swift_thyme.host.template_check import check_job
from swift_thyme.host.threads import settle_threads
from swift_thyme.sampling.sampling_settings import VLLM_HOOK, SamplingSettings

__all__ = [
    "O3Settings",
    "accept_o3_flag",
    "check_model_runner",
    "fill_defaults",
    "host_arguments",
    "sampling_settings",
]

logger = logging.getLogger(__name__)

SCHEDULER_NAME = "o3"
CALLBACK_NAME = "thyme"
LOSS_SCALE_NAME = "thyme"
V2_PROCESSORS = "v1/worker/gpu/sample/logits_processor"
"""Where, inside vLLM, the interface lies that its second model runner has in later versions."""

# The argument object of the job that runs in this process. ms-swift builds a scheduler with
# nothing but tokenizer, template and turn limit, so the other limits have to be found here.
_host_arguments: Any = None


@dataclass(frozen=True)
class O3Settings:
    """What the environment says about the rollout."""

    max_turns: int = DEFAULT_MAX_TURNS
    """Turns a trajectory may have (``GEN_ITER_LIMIT``): each ends with ``</code>``, with the
    answer or with the end of the text. The output of a code block needs a turn that reads it, so
    at most ``max_turns - 1`` blocks run."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> O3Settings:
        """Read ``GEN_ITER_LIMIT``.

        Args:
            environ: Variables to read; None reads those of this process.

        Raises:
            SettingsError: The value is not a whole number of at least 1.
        """
        return cls(max_turns=Reader(environ).count("GEN_ITER_LIMIT"))


def host_arguments() -> Any:
    """Return ms-swift's argument object of this process, or None outside an ms-swift job."""
    return _host_arguments


def _frames(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _calling_arguments(frames: list[FrameType]) -> Any:
    """Find the argument object that is importing this plugin."""
    for frame in frames:
        if frame.f_code.co_name == "_import_external_plugins":
            return frame.f_locals.get("self")
    return None


def _unknown_flags(frames: list[FrameType]) -> list[str] | None:
    """Find the list of flags that ms-swift's parser did not know, in the call that made it."""
    for frame in frames:
        if frame.f_code.co_name == "parse_args_into_dataclasses":
            remaining = frame.f_locals.get("remaining_args")
            return remaining if isinstance(remaining, list) else None
    return None


def _to_bool(text: str) -> bool:
    value = parse_switch(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return value


def _take_o3(remaining: list[str]) -> bool | None:
    """Remove ``--O3 VALUE`` from the unknown flags in place; return its value, None if absent."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog="swift")
    parser.add_argument("--O3", type=_to_bool, nargs="?", const=True, default=None)
    namespace, rest = parser.parse_known_args(remaining)
    remaining[:] = rest
    value: bool | None = namespace.O3
    return value


def accept_o3_flag() -> bool:
    """Take ``--O3`` from ms-swift's command line and fill what it implies.

    Call it from a plugin file, at import. A second plugin that calls it again finds the work done.

    Returns:
        Whether the job runs with ``--O3 true``.

    Raises:
        HostError: ``--O3`` was given, but this ms-swift parses its flags in a way that this
            version of the package does not know.
    """
    global _host_arguments
    frames = _frames(sys._getframe(1))
    arguments = _calling_arguments(frames)
    if arguments is None:
        # Without an argument object a plugin is imported by hand, or by a process that loads data.
        if _host_arguments is None and _asks_for_o3() and multiprocessing.parent_process() is None:
            raise _unknown_parser()
        return bool(getattr(_host_arguments, "O3", False))
    _host_arguments = arguments
    if getattr(arguments, "O3", None) is not None:
        return bool(arguments.O3)
    remaining = _unknown_flags(frames)
    if remaining is None:
        if _asks_for_o3():
            raise _unknown_parser()
        arguments.O3 = False
        return False
    arguments.O3 = bool(_take_o3(remaining))
    if arguments.O3:
        explain_full_disks(lambda: getattr(arguments, "output_dir", None))
        check_flags(arguments, SCHEDULER_NAME)
        if job_of(arguments) in (Job.GRPO, Job.ROLLOUT):
            check_job(arguments)
        fill_defaults(arguments, O3Settings.from_env())
        settle_threads(on_gpu=not getattr(arguments, "use_cpu", False) and _has_gpu())
        _look_ahead(arguments)
        if _has_demonstrations(arguments) and not _is_given(frames, "loss_scale"):
            arguments.loss_scale = LOSS_SCALE_NAME
            logger.info("O3: loss scale %s", LOSS_SCALE_NAME)
    return bool(arguments.O3)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _look_ahead(arguments: Any) -> None:
    """Log the preflight of a GRPO job; its first process speaks for all of them."""
    if job_of(arguments) is Job.GRPO and speaks_for_the_job():
        log_preflight(arguments)


def _asks_for_o3() -> bool:
    return any(flag == "--O3" or flag.startswith("--O3=") for flag in sys.argv)


def _unknown_parser() -> HostError:
    return HostError(
        "--O3: this ms-swift parses its flags in a way that swift_thyme does not know; "
        "`thyme doctor` says more, and --multi_turn_scheduler o3 --max_turns 4 "
        "--stop_words '</code>' '</answer>' --callbacks thyme does without the flag"
    )


def _has_demonstrations(arguments: Any) -> bool:
    """Tell whether the job has a loss on given rows, in which sandbox outputs must be masked."""
    job = job_of(arguments)
    if job is Job.GRPO:
        return bool(getattr(arguments, "chord_sft_dataset", None))
    return job in (Job.SFT, Job.MEGATRON_SFT)


def _is_given(frames: list[FrameType], name: str) -> bool:
    """Tell whether the user has set a flag, be it to its default value."""
    for frame in frames:
        if frame.f_code.co_name == "parse_args_into_dataclasses":
            given = frame.f_locals.get("args")
            argv = given if isinstance(given, list) else sys.argv[1:]
            return any(flag == f"--{name}" or flag.startswith(f"--{name}=") for flag in argv)
    return False


def fill_defaults(arguments: Any, settings: O3Settings) -> None:
    """Fill the fields of an ms-swift argument object that ``--O3 true`` implies.

    Args:
        arguments: ``RLHFArguments``, ``SftArguments`` or ``RolloutArguments``; a field that the
            class lacks is left alone.
        settings: What the environment says.
    """
    names = {name for name in dir(type(arguments)) if not name.startswith("_")}
    names.update(vars(arguments))
    if job_of(arguments) not in (Job.GRPO, Job.ROLLOUT):
        return
    if not arguments.multi_turn_scheduler:
        arguments.multi_turn_scheduler = SCHEDULER_NAME
    warn_about_scheduler(arguments.multi_turn_scheduler, SCHEDULER_NAME)
    if arguments.max_turns is None:
        arguments.max_turns = settings.max_turns
    if "vllm_use_async_engine" in names and not hasattr(arguments, "rlhf_type"):
        # `swift rollout` decides about the engine before it imports plugins.
        arguments.vllm_use_async_engine = True
    if arguments.vllm_limit_mm_per_prompt is None:
        arguments.vllm_limit_mm_per_prompt = {"image": DEFAULT_MAX_IMAGES, "video": 0}
    adaptive = False
    if "stop_words" in names:
        words = list(arguments.stop_words or [])
        # In the published recipe this word switches the code temperature; it ends no turn here.
        adaptive = CODE_OPEN in words
        words = [word for word in words if word != CODE_OPEN]
        arguments.stop_words = words + [word for word in STOP_STRINGS if word not in words]
    if "callbacks" in names and CALLBACK_NAME not in (arguments.callbacks or []):
        arguments.callbacks = [*(arguments.callbacks or []), CALLBACK_NAME]
    sampling = SamplingSettings.from_env(
        adaptive=adaptive,
        text_temperature=arguments.temperature if hasattr(arguments, "rlhf_type") else None,
    )
    if sampling.code_temperature and not adaptive:
        raise SettingsError(
            "THYME_CODE_TEMPERATURE has no effect here: code has a temperature of its own with "
            f"--stop_words '{CODE_OPEN}' only"
        )
    arguments.thyme_sampling = sampling.as_config()
    if getattr(arguments, "use_vllm", True):
        check_model_runner()
        _add_vllm_hook(arguments, sampling)
    if adaptive and sampling.train_code_tokens:
        _warn_about_correction(arguments)
    logger.info(
        "O3: scheduler %s, at most %s turns, stop words %s, images per prompt %s, %s",
        arguments.multi_turn_scheduler,
        arguments.max_turns,
        getattr(arguments, "stop_words", None),
        arguments.vllm_limit_mm_per_prompt,
        sampling,
    )


def sampling_settings() -> SamplingSettings:
    """Return the sampling settings of the job in this process, or the environment's outside one."""
    config = getattr(_host_arguments, "thyme_sampling", None)
    return SamplingSettings.from_env() if config is None else SamplingSettings.from_config(config)


def check_model_runner() -> None:
    """Stop where vLLM would sample without calling the hook.

    Raises:
        SettingsError: vLLM's second model runner is chosen, or would be chosen by default in a
            version in which it takes logits processors (of another interface) itself.
    """
    chosen = Reader().given("VLLM_USE_V2_MODEL_RUNNER")
    if chosen is False:
        return
    spec = importlib.util.find_spec("vllm")
    folders = list(spec.submodule_search_locations or []) if spec else []
    of_its_own = any(Path(folder, V2_PROCESSORS).exists() for folder in folders)
    if chosen or of_its_own:
        raise SettingsError(
            "vLLM's second model runner has another interface for logits processors, and the "
            "sampling hook of --O3 would not be called: set VLLM_USE_V2_MODEL_RUNNER=0"
        )


def _warn_about_correction(arguments: Any) -> None:
    mode = getattr(arguments, "rollout_importance_sampling_mode", None)
    if mode and mode.startswith("sequence"):
        logger.warning(
            "greedy code tokens have rollout log-probability 0, which lowers the sequence-level "
            "ratios of --rollout_importance_sampling_mode sequence_*; "
            "THYME_TRAIN_CODE_TOKENS=false leaves them out"
        )


def _engine_kwargs(arguments: Any) -> dict[str, Any]:
    """Return ``--vllm_engine_kwargs``, which some argument classes parse after their plugins."""
    given = arguments.vllm_engine_kwargs
    if isinstance(given, str):
        from swift.utils import json_parse_to_dict

        try:
            given = json_parse_to_dict(given)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise SettingsError(
                f"--vllm_engine_kwargs {arguments.vllm_engine_kwargs!r} is no JSON object such as "
                """'{"seed": 1}', and no file of one"""
            )
    return dict(given or {})


def _add_vllm_hook(arguments: Any, sampling: SamplingSettings) -> None:
    engine_kwargs = _engine_kwargs(arguments)
    processors = list(engine_kwargs.get("logits_processors") or [])
    if VLLM_HOOK not in processors:
        processors.append(VLLM_HOOK)
    additional = dict(engine_kwargs.get("additional_config") or {})
    additional.setdefault("thyme", sampling.as_config())
    engine_kwargs["logits_processors"] = processors
    engine_kwargs["additional_config"] = additional
    arguments.vllm_engine_kwargs = engine_kwargs
