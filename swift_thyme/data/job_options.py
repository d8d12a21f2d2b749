"""What a data job was asked to do; one frozen record that its processes share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from swift_thyme.core.errors import SettingsError

__all__ = ["JobOptions"]

_UNSAFE = set("\"'\\\n\r\t<>")


@dataclass(frozen=True)
class JobOptions:
    """The options of ``thyme data sft`` and ``thyme data rl``.

    Raises:
        SettingsError: A value cannot be used; the message names the flag.
    """

    kind: str
    """``sft`` or ``rl``."""
    inputs: tuple[str, ...]
    """Files and folders to read."""
    out: str
    """Absolute folder to write to."""
    image_root: str | None = None
    """Folder that relative image paths start from; None is the folder of the file they are in."""
    max_megapixels: float = 100.0
    """Larger images are rejected, before they are decoded (millions of pixels)."""
    execute: bool = False
    """Run each code block and drop rows whose code fails."""
    timeout_s: float | None = None
    """Limit of one code block (seconds); None is the sandbox's."""
    system_prompt: str | None = None
    """System message of every RL row; None leaves it to ``--system`` at training time."""
    shuffle: bool = True
    """Whether the options of an RL row change places, so that no letter is right more often."""
    seed: int = 0
    """Seed of their order."""
    strict: bool = False
    """Whether a row that cannot be used ends the job."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Worker processes. They do not change the result."""
    rows_per_shard: int = 64
    """Rows after which a finished part is recorded."""

    def __post_init__(self) -> None:
        if not Path(self.out).is_absolute() or _UNSAFE & set(self.out):
            raise SettingsError(
                f"--out {self.out!r}: must be an absolute path without quotes, backslashes, angle "
                "brackets and line breaks, because prompts and programs will quote it"
            )
        for flag, value in (
            ("--max-megapixels", self.max_megapixels),
            ("--workers", self.workers),
            ("--rows-per-shard", self.rows_per_shard),
        ):
            if value <= 0:
                raise SettingsError(f"{flag} must be above 0, not {value}")
        if self.timeout_s is not None and not 0 < self.timeout_s <= 3600:
            raise SettingsError(
                f"--timeout-s must lie between 0 and 3600 seconds, not {self.timeout_s}"
            )

    @property
    def images_dir(self) -> Path:
        """Where pictures are stored."""
        return Path(self.out) / "images"

    @property
    def work_dir(self) -> Path:
        """Where unfinished work is kept."""
        return Path(self.out) / ".work"
