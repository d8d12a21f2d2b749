"""Settings of the rewards: the published environment variables, read and checked in one place.

The names and defaults of the weights, of ``REWARD_API_ADDRESS`` and of ``QWEN_API_PORT`` are the
published ones (Thyme facts). One default differs on purpose: ``VQA_NORM`` is 0, as in the published
environment file, not 1 as in the published code. A range of [-1, 1] gives the value 0 to whatever
has no verdict, which beats a wrong answer; here a missing verdict is never a number, so both values
are safe, and 0 keeps the three outcome rewards on the scale that their weights were chosen for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from swift_thyme.core.errors import SettingsError

__all__ = ["JudgeSettings", "RewardSettings", "RewardScale"]


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

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> RewardSettings:
        """Read the settings from environment variables.

        Args:
            env: Variables to read; None reads those of this process.

        Raises:
            SettingsError: A variable has a value that cannot be used; the message names it.
        """
        read = _Reader(os.environ if env is None else env)
        return cls(
            format=RewardScale(read.number("FMT_WEIGHT", 0.5), read.flag("FMT_NORM", False)),
            answer=RewardScale(read.number("VQA_WEIGHT", 1.0), read.flag("VQA_NORM", False)),
            consistency=RewardScale(read.number("CST_WEIGHT", 0.5), read.flag("CST_NORM", False)),
            code=RewardScale(read.number("CODE_WEIGHT", 0.3), False),
            answer_process=RewardScale(read.number("VQA_PRM_WEIGHT", 0.3), False),
            code_process=RewardScale(read.number("CODE_PRM_WEIGHT", 0.3), False),
            consistency_needs_right=read.flag("THYME_CST_NEEDS_RIGHT", True),
            maths_timeout_s=read.seconds("THYME_MATHS_TIMEOUT_S", 2.0),
            judge=JudgeSettings(
                urls=read.judge_urls(),
                model=read.text("THYME_JUDGE_MODEL"),
                api_key=read.text("THYME_JUDGE_API_KEY"),
                concurrency=read.count("THYME_JUDGE_CONCURRENCY", 8),
                connect_timeout_s=read.seconds("THYME_JUDGE_CONNECT_TIMEOUT_S", 5.0),
                read_timeout_s=read.seconds("THYME_JUDGE_READ_TIMEOUT_S", 60.0),
                step_timeout_s=read.seconds("THYME_JUDGE_STEP_TIMEOUT_S", 180.0),
                outage_s=read.seconds("THYME_JUDGE_OUTAGE_S", 20.0),
                max_tokens=read.count("THYME_JUDGE_MAX_TOKENS", 512),
                max_failed_steps=read.count("THYME_JUDGE_MAX_FAILED_STEPS", 10),
                first=read.count("RANK", 0, least=0),
            ),
        )


class _Reader:
    """Typed access to environment variables; an empty variable counts as not set."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str | None:
        return self._env.get(name, "").strip() or None

    def number(self, name: str, default: float) -> float:
        text = self.text(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError as e:
            raise SettingsError(f"{name}={text!r} is not a number") from e
        if not math.isfinite(value):
            raise SettingsError(f"{name}={text!r} is not a finite number")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self.number(name, default)
        if value <= 0:
            raise SettingsError(f"{name}={value:g} must be more than 0 seconds")
        return value

    def count(self, name: str, default: int, least: int = 1) -> int:
        text = self.text(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError as e:
            raise SettingsError(f"{name}={text!r} is not a whole number") from e
        if value < least:
            raise SettingsError(f"{name}={value} must be at least {least}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise SettingsError(f"{name}={text!r} is neither 0 nor 1")

    def judge_urls(self) -> tuple[str, ...]:
        """Return the base URLs from ``THYME_JUDGE_URLS``, or from the two published variables."""
        urls = self.text("THYME_JUDGE_URLS")
        if urls is not None:
            parts = [part.strip() for part in urls.split(",") if part.strip()]
            if not parts:
                raise SettingsError(f"THYME_JUDGE_URLS={urls!r} holds no URL")
            return _unique(_base_url(part, "THYME_JUDGE_URLS") for part in parts)
        address, ports = self.text("REWARD_API_ADDRESS"), self.text("QWEN_API_PORT")
        if address is None and ports is None:
            return ()
        if address is None:
            raise SettingsError("QWEN_API_PORT is set, but REWARD_API_ADDRESS is not")
        if "://" not in address:
            address = f"http://{address}"
        if ports is None:
            if _port(address, "REWARD_API_ADDRESS") is None:
                raise SettingsError("REWARD_API_ADDRESS is set, but QWEN_API_PORT is not")
            return (_base_url(address, "REWARD_API_ADDRESS"),)
        if _port(address, "REWARD_API_ADDRESS") is not None:
            raise SettingsError("REWARD_API_ADDRESS names a port, and QWEN_API_PORT is set too")
        split = urlsplit(_base_url(address, "REWARD_API_ADDRESS"))
        found = []
        for part in ports.split(","):
            port = part.strip()
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise SettingsError(f"QWEN_API_PORT={ports!r}: {port!r} is not a port number")
            found.append(f"{split.scheme}://{split.netloc}:{int(port)}{split.path}")
        return _unique(found)


def _unique(urls: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(urls))


def _port(url: str, name: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError as e:
        raise SettingsError(f"{name}={url!r} is not a URL: {e}") from e


def _base_url(url: str, name: str) -> str:
    """Return the URL without trailing slash, with ``/v1`` where it has no path at all."""
    _port(url, name)
    split = urlsplit(url)
    if split.username or split.password:
        # URLs are logged; also, the password is not repeated here.
        raise SettingsError(f"{name}: no user name or password in a URL; use THYME_JUDGE_API_KEY")
    if split.scheme not in ("http", "https") or not split.hostname:
        raise SettingsError(f"{name}: {url!r} is not an http(s) URL")
    if split.query or split.fragment:
        raise SettingsError(f"{name}: {url!r} must not have a query or a fragment")
    return f"{split.scheme}://{split.netloc}{split.path.rstrip('/') or '/v1'}"
