"""What the sampling hooks do, read from the environment and carried to where sampling happens.

vLLM samples in a process of its own, so the settings travel there with the engine arguments
(:meth:`SamplingSettings.as_config`), not through the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SettingsError

__all__ = ["SAMPLE_CODE", "VLLM_HOOK", "SamplingSettings"]

VLLM_HOOK = "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor"
"""Name under which vLLM loads the hook; written out so that nobody has to import vLLM for it."""

SAMPLE_CODE = "thyme_sample_code"
"""Key of a request's ``vllm_xargs`` that asks vLLM's hook to sample code like text (1)."""


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
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        adaptive: bool = False,
        text_temperature: float | None = None,
    ) -> SamplingSettings:
        """Read the three variables.

        Args:
            environ: Variables to read; None reads those of this process.
            adaptive: See the field.
            text_temperature: Sampling temperature of text, None where it is not known here.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        read = Reader(environ)
        code_temperature = read.number("THYME_CODE_TEMPERATURE")
        if text_temperature is not None and code_temperature > text_temperature:
            raise SettingsError(
                f"THYME_CODE_TEMPERATURE='{code_temperature:g}': code cannot be sampled at a "
                f"higher temperature than text, which has --temperature {text_temperature:g}"
            )
        return cls(
            adaptive=adaptive,
            code_temperature=code_temperature,
            train_code_tokens=read.switch("THYME_TRAIN_CODE_TOKENS"),
            stop_repetition=read.switch("THYME_REPETITION_STOP"),
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

    @classmethod
    def of_engine(
        cls, additional_config: Mapping[str, Any] | None, environ: Mapping[str, str] | None = None
    ) -> SamplingSettings:
        """Return the settings of an engine that loads the hook by name.

        Args:
            additional_config: vLLM's; a job of ours has put ``thyme`` there. Where a server is
                started by hand nobody has: code is greedy then, and the variables hold.
            environ: Variables to read; None reads those of this process.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        config = (additional_config or {}).get("thyme")
        if config is None:
            return cls.from_env(environ, adaptive=True)
        return cls.from_config(config)
