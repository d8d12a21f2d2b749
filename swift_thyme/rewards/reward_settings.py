"""Settings of the rewards: the published environment variables, read and checked in one place.

The names and defaults of the weights, of ``REWARD_API_ADDRESS`` and of ``QWEN_API_PORT`` are the
published ones (Thyme facts). One default differs on purpose: ``VQA_NORM`` is 0, as in the published
environment file, not 1 as in the published code. A range of [-1, 1] gives the value 0 to whatever
has no verdict, which beats a wrong answer; here a missing verdict is never a number, so both values
are safe, and 0 keeps the three outcome rewards on the scale that their weights were chosen for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from swift_thyme.core.environment import Reader, unusable
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.thinking import OF_THE_PROTOCOL, ThinkingTags, tags_from_environment
from swift_thyme.core.urls import base_url, base_urls, unique

__all__ = ["JudgeSettings", "RewardSettings", "RewardScale"]

_KEY = "THYME_JUDGE_API_KEY"
_API = "/v1"
"""Path of an OpenAI-compatible server that is named without one."""


@dataclass(frozen=True, slots=True)
class RewardScale:
    """How a raw score in [0, 1] becomes the reward that the trainer sees."""

    weight: float
    """Factor on the score, no unit."""
    centred: bool
    """Whether [0, 1] is mapped to [-1, 1] before weighting (the ``*_NORM`` variables)."""

    def apply(self, score: float) -> float:
        """Return the reward for a score in [0, 1]."""
        return self.weight * (2.0 * score - 1.0 if self.centred else score)


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Where the judge is and how long it may take."""

    urls: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers, ending in the API version (``…/v1``)."""
    model: str | None = None
    """Model name to ask for; None asks each server for the first model that it lists."""
    api_key: str | None = None
    """Bearer token, sent to every server; None sends none."""
    concurrency: int = 8
    """Requests in flight per server and process."""
    connect_timeout_s: float = 5.0
    """Longest wait (in seconds) for a connection."""
    read_timeout_s: float = 60.0
    """Longest wait (in seconds) for the reply to one request."""
    step_timeout_s: float = 180.0
    """Longest time (in seconds) that one training step waits for all its verdicts."""
    outage_s: float = 20.0
    """Give a step up after this many seconds without any server that answers."""
    attempts: int = 5
    """Requests sent for one verdict before it counts as failed."""
    max_failed_steps: int = 10
    """Training stops after this many steps in a row in which every request failed."""
    max_tokens: int = 512
    """Length limit of the judge's reply, in tokens."""
    max_answer_chars: int = 2000
    """Longest part of a candidate's answer that is shown to the judge, in characters."""
    max_reasoning_chars: int = 6000
    """Longest part of a candidate's reasoning that is shown to the judge, in characters."""
    max_image_side: int = 768
    """Longest side, in pixels, of an image sent to the judge."""
    max_images: int = 6
    """Most images sent with one request."""
    first: int = 0
    """Index of the server that is preferred at equal load; the rank, to spread processes."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "max_failed_steps", "max_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"JudgeSettings.{name} must be at least 1")

    @property
    def enabled(self) -> bool:
        """Whether any server is configured."""
        return bool(self.urls)


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Everything that the reward functions can be told."""

    format: RewardScale = RewardScale(0.5, False)
    answer: RewardScale = RewardScale(1.0, False)
    consistency: RewardScale = RewardScale(0.5, False)
    code: RewardScale = RewardScale(0.3, False)
    answer_process: RewardScale = RewardScale(0.3, False)
    code_process: RewardScale = RewardScale(0.3, False)
    consistency_needs_right: bool = True
    """Whether consistency counts only where the result is right (Thyme, reward design)."""
    maths_timeout_s: float = 2.0
    """Longest time (in seconds) for comparing one pair of mathematical expressions."""
    judge: JudgeSettings = JudgeSettings()
    thinking: ThinkingTags = OF_THE_PROTOCOL
    """Tags around thoughts; a rollout of the o3 scheduler has the protocol's already."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RewardSettings:
        """Read the settings from environment variables.

        Args:
            environ: Variables to read; None reads those of this process.

        Raises:
            SettingsError: A variable has a value that cannot be used; the message names it.
        """
        read = Reader(environ)
        return cls(
            format=RewardScale(read.number("FMT_WEIGHT"), read.switch("FMT_NORM")),
            answer=RewardScale(read.number("VQA_WEIGHT"), read.switch("VQA_NORM")),
            consistency=RewardScale(read.number("CST_WEIGHT"), read.switch("CST_NORM")),
            code=RewardScale(read.number("CODE_WEIGHT"), False),
            answer_process=RewardScale(read.number("VQA_PRM_WEIGHT"), False),
            code_process=RewardScale(read.number("CODE_PRM_WEIGHT"), False),
            consistency_needs_right=read.switch("THYME_CST_NEEDS_RIGHT"),
            maths_timeout_s=read.number("THYME_MATHS_TIMEOUT_S"),
            judge=JudgeSettings(
                urls=_judge_urls(read),
                model=read.text("THYME_JUDGE_MODEL"),
                api_key=read.text("THYME_JUDGE_API_KEY"),
                concurrency=read.count("THYME_JUDGE_CONCURRENCY"),
                connect_timeout_s=read.number("THYME_JUDGE_CONNECT_TIMEOUT_S"),
                read_timeout_s=read.number("THYME_JUDGE_READ_TIMEOUT_S"),
                step_timeout_s=read.number("THYME_JUDGE_STEP_TIMEOUT_S"),
                outage_s=read.number("THYME_JUDGE_OUTAGE_S"),
                max_tokens=read.count("THYME_JUDGE_MAX_TOKENS"),
                max_failed_steps=read.count("THYME_JUDGE_MAX_FAILED_STEPS"),
                first=max(read.count("RANK"), 0),
            ),
            thinking=tags_from_environment(environ) or OF_THE_PROTOCOL,
        )


def _judge_urls(read: Reader) -> tuple[str, ...]:
    """Return the base URLs from ``THYME_JUDGE_URLS``, or from the two published variables."""
    urls = read.text("THYME_JUDGE_URLS")
    if urls is not None:
        return base_urls("THYME_JUDGE_URLS", urls, _KEY, _API)
    address, ports = read.text("REWARD_API_ADDRESS"), read.text("QWEN_API_PORT")
    if address is None and ports is None:
        return ()
    if address is None:
        raise SettingsError("QWEN_API_PORT is set, but REWARD_API_ADDRESS is not")
    whole = address if "://" in address else f"http://{address}"
    url = base_url("REWARD_API_ADDRESS", whole, _KEY, _API)
    split = urlsplit(url)
    if ports is None:
        if split.port is None:
            raise SettingsError("REWARD_API_ADDRESS is set, but QWEN_API_PORT is not")
        return (url,)
    if split.port is not None:
        raise SettingsError("REWARD_API_ADDRESS names a port, and QWEN_API_PORT is set too")
    return unique(
        f"{split.scheme}://{split.netloc}:{_port(part.strip(), ports)}{split.path}"
        for part in ports.split(",")
    )


def _port(text: str, ports: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise unusable("QWEN_API_PORT", ports, f"{text!r} is not a port number")
    return int(text)
