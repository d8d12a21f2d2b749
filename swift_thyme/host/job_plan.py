"""What a GRPO job intends, in plain values: the one form that the preflight looks at.

The same flags come as ms-swift's argument object in a job, and as words of a command line in
``thyme doctor --job``; both end here. Nothing of ms-swift is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES

__all__ = ["JobPlan", "as_mapping", "plan_of"]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The flags that the preflight looks at; the defaults are those of ms-swift 4.6.

    A field has the name of its flag, unless its text says otherwise.
    """

    processes: int = 1
    """Of all hosts together."""
    model: str | None = None
    dataset: tuple[str, ...] = ()
    system: str | None = None
    tuner_type: str = "lora"
    learning_rate: float | None = None
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    steps_per_generation: int | None = None
    generation_batch_size: int | None = None
    sequence_parallel_size: int = 1
    num_generations: int = 8
    max_length: int | None = None
    max_completion_length: int = 512
    max_pixels: int | None = None
    """The smaller one of ``MAX_PIXELS`` and ``--max_pixels``; None is no limit of the user's."""
    use_vllm: bool = False
    vllm_mode: str | None = None
    vllm_max_model_len: int | None = None
    vllm_gpu_memory_utilization: float = 0.9
    vllm_tensor_parallel_size: int = 1
    most_images: int = DEFAULT_MAX_IMAGES
    """``image`` of ``--vllm_limit_mm_per_prompt``."""
    deepspeed: str | None = None
    """Name or path; a configuration that was read already counts as its ``zeroN``."""
    attn_impl: str | None = None
    beta: float | None = None
    sleep_level: int = 0
    offload_model: bool = False
    offload_optimizer: bool = False
    use_cpu: bool = False

    @property
    def samples_per_rollout(self) -> int:
        """Trajectories that are sampled together, on all processes."""
        if self.generation_batch_size:
            return self.generation_batch_size
        one_pass = self.per_device_train_batch_size * self.processes
        return one_pass * (self.steps_per_generation or self.gradient_accumulation_steps)

    @property
    def longest(self) -> int | None:
        """Most tokens of prompt, turns and outputs together; None where no flag says it."""
        lengths = [self.max_length, self.vllm_max_model_len if self.use_vllm else None]
        return min((length for length in lengths if length), default=None)

    @property
    def zero_stage(self) -> int:
        """Stage of DeepSpeed's ZeRO; 0 without."""
        digits = [c for c in Path(self.deepspeed or "").stem if c.isdigit()]
        return min(int(digits[0]), 3) if digits else 0


def plan_of(arguments: Any, max_pixels: Any, processes: int) -> JobPlan:
    """Return the plan of a job.

    Args:
        arguments: ms-swift's argument object, or any object with such fields.
        max_pixels: What the variable ``MAX_PIXELS`` says, None where it is not set.
        processes: Of all hosts together.

    Raises:
        SettingsError: A flag that takes a number or a switch has another value.
    """
    values: dict[str, Any] = {}
    for name, field in JobPlan.__dataclass_fields__.items():
        value = getattr(arguments, name, None)
        if value is None:
            continue
        takes_text = "str" in str(field.type)
        if isinstance(value, str) and not takes_text:
            raise SettingsError(f"--{name} {value!r}: expected {field.type}".replace(" | None", ""))
        values[name] = str(value) if takes_text and isinstance(value, int | float) else value
    dataset = values.get("dataset", ())
    values["dataset"] = (dataset,) if isinstance(dataset, str) else tuple(dataset)
    values["deepspeed"] = _deepspeed(values.get("deepspeed"))
    limit = as_mapping(getattr(arguments, "vllm_limit_mm_per_prompt", None)).get("image")
    values["most_images"] = limit if isinstance(limit, int) else DEFAULT_MAX_IMAGES
    kwargs = as_mapping(getattr(arguments, "model_kwargs", None))
    pixels = [
        getattr(arguments, "max_pixels", None),
        kwargs.get("max_pixels", kwargs.get("MAX_PIXELS")) or max_pixels,
    ]
    found = [int(value) for value in pixels if value and str(value).strip().isdecimal()]
    values["max_pixels"] = min(found, default=None)
    return JobPlan(**{**values, "processes": processes})


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping that may still be its JSON text; an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            # Text that is no JSON gets ms-swift's own error.
            return {}
    return value if isinstance(value, Mapping) else {}


def _deepspeed(value: Any) -> str | None:
    if isinstance(value, Mapping):
        zero = value.get("zero_optimization")
        return f"zero{zero.get('stage', 0)}" if isinstance(zero, Mapping) else None
    return str(value) if value else None
