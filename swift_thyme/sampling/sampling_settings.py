"""What the sampling hooks do, read from the environment and carried to where sampling happens.

vLLM samples in a process of its own, so the settings travel there with the engine arguments
(:meth:`SamplingSettings.as_config`), not through the environment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swift_thyme.core.errors import SettingsError

__all__ = ["VLLM_HOOK", "SamplingSettings"]

VLLM_HOOK = "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor"
"""Name under which vLLM loads the hook; written out so that nobody has to import vLLM for it."""

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of the sampling hooks; the placeholder guard is always on."""

    adaptive: bool = False
    """Whether code is sampled at a temperature of its own (GRPO-ATS)."""
    code_temperature: float = 0.0
    """Temperature inside code (``THYME_CODE_TEMPERATURE``); 0 leaves only the arg-max."""
    train_code_tokens: bool = True
    """Whether tokens inside code are trained on (``THYME_TRAIN_CODE_TOKENS``)."""
    stop_repetition: bool = True
    """Whether a generation that evidently loops is ended (``THYME_REPETITION_STOP``)."""

    @classmethod
    def from_env(
        cls, *, adaptive: bool = False, text_temperature: float | None = None
    ) -> SamplingSettings:
        """Read the three variables.

        Args:
            adaptive: See the field.
            text_temperature: Sampling temperature of text, None where it is not known here.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        return cls(
            adaptive=adaptive,
            code_temperature=_temperature("THYME_CODE_TEMPERATURE", text_temperature),
            train_code_tokens=_switch("THYME_TRAIN_CODE_TOKENS"),
            stop_repetition=_switch("THYME_REPETITION_STOP"),
        )

    def code_factor(self, text_temperature: float) -> float:
        """Return what logits inside code are multiplied with, before the engine's temperature.

        0 stands for "only the arg-max is left". Text that is sampled at a lower temperature than
        ``code_temperature`` (greedy evaluation) sets the temperature of code too.
        """
        if self.code_temperature == 0:
            return 0.0
        return max(text_temperature / self.code_temperature, 1.0)

    def as_config(self) -> dict[str, Any]:
        """Return the settings as plain values, for engine arguments and ``args.json``."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SamplingSettings:
        """Read back what :meth:`as_config` returned."""
        return cls(**config)


def _temperature(name: str, most: float | None) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingsError(f"{name}={text!r}: expected a temperature of 0 or more")
    if most is not None and value > most:
        raise SettingsError(
            f"{name}={text!r}: code cannot be sampled at a higher temperature than text, "
            f"which has --temperature {most:g}"
        )
    return value


def _switch(name: str) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if not text or text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingsError(f"{name}={text!r}: expected true or false")
