"""Settings of the sandbox: one frozen record, read from the environment in one place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from swift_thyme.core.environment import Reader, check
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.sandbox.accelerations import Acceleration, left_out
from swift_thyme.sandbox.tools import tool_paths

__all__ = ["DISABLEABLE_LAYERS", "SandboxSettings"]

MIB = 1024 * 1024

DISABLEABLE_LAYERS = ("namespaces", "uid", "seccomp", "landlock", "cgroup")
"""Layers that `THYME_SANDBOX_DISABLE` can switch off, for tests and for finding a cause."""

DEFAULT_PRELOAD = cast("tuple[str, ...]", VARIABLES["THYME_SANDBOX_PRELOAD"].default)
"""Modules that a worker loads once."""

_MAX_DEFAULT_WORKERS = 16
"""With 16 instead of 8, 256 trajectories of one crop each took 1.6 s instead of 2.8 s on 16 cores
(docs/sandbox.md); each takes about 340 MB of memory."""


def local_rank() -> tuple[int, int]:
    """Return this process's number among those that torchrun started on the host, and their count.

    Any other process is the only one, number 0.

    Raises:
        SettingsError: ``LOCAL_RANK`` or ``LOCAL_WORLD_SIZE`` is no whole number.
    """
    read = Reader()
    rank, ranks = read.count("LOCAL_RANK"), read.count("LOCAL_WORLD_SIZE")
    return (rank, ranks) if 0 <= rank < ranks else (0, 1)


def _default_workers() -> int:
    """Cores of this process, shared between the ranks that torchrun started on the host."""
    _, ranks = local_rank()
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_MAX_DEFAULT_WORKERS, cores // ranks))


@dataclass(frozen=True)
class SandboxSettings:
    """How the sandbox runs code; each field names the variable that `from_env` reads.

    Raises:
        SettingsError: A value is out of its range; the message names the variable.
    """

    mode: str = "auto"
    """`THYME_SANDBOX`: `strict` refuses to start when an isolation layer is missing, `auto` logs
    once which are missing, keeps the others, and refuses where none of them guards the files of the
    host; `unguarded` goes on even then."""
    workers: int = field(default_factory=_default_workers)
    """`THYME_SANDBOX_WORKERS`: worker processes, and blocks that run at the same time."""
    timeout_s: float = 10.0
    """`THYME_SANDBOX_TIMEOUT_S`: default wall-clock limit of a block, in seconds."""
    memory_mb: int = 2048
    """`THYME_SANDBOX_MEMORY_MB`: memory of one session above what the libraries take, in MiB."""
    disk_mb: int = 256
    """`THYME_SANDBOX_DISK_MB`: size of the private folders of one session, in MiB."""
    inodes: int = 4096
    """`THYME_SANDBOX_INODES`: files and folders that one session can hold."""
    processes: int = 48
    """`THYME_SANDBOX_PROCESSES`: processes and threads that one session can hold."""
    open_files: int = 256
    """`THYME_SANDBOX_OPEN_FILES`: open descriptors of one process."""
    stdout_kb: int = 64
    """`THYME_SANDBOX_STDOUT_KB`: printed text that is kept, in KiB; half head, half tail."""
    output_mb: int = 64
    """`THYME_SANDBOX_OUTPUT_MB`: printed text after which the block is killed, in MiB."""
    images: int = 16
    """`THYME_SANDBOX_IMAGES`: images that one block can return."""
    image_mb: int = 64
    """`THYME_SANDBOX_IMAGE_MB`: largest image file that is looked at, in MiB."""
    image_megapixels: float = 120.0
    """`THYME_SANDBOX_IMAGE_MEGAPIXELS`: largest image that is decoded, in millions of pixels."""
    returned_megapixels: float = 12.8
    """`THYME_SANDBOX_RETURNED_MEGAPIXELS`: larger images are returned reduced to this size; the
    default is the most that a Qwen2.5-VL processor accepts."""
    returned_mb: int = 48
    """`THYME_SANDBOX_RETURNED_MB`: images that one block can return, encoded, together, in MiB."""
    sessions: int = 512
    """`THYME_SANDBOX_SESSIONS`: sessions that one worker holds open at most."""
    spares: int = 1
    """`THYME_SANDBOX_SPARES`: empty sessions that a worker keeps ready."""
    preload: tuple[str, ...] = DEFAULT_PRELOAD
    """`THYME_SANDBOX_PRELOAD`: modules loaded once per worker, comma-separated. Of the default ones
    those that are missing are skipped; others must be there."""
    disable: tuple[str, ...] = ()
    """`THYME_SANDBOX_DISABLE`: isolation layers to leave out, comma-separated: `namespaces`,
    `uid`, `seccomp`, `landlock`, `cgroup`."""
    fast: tuple[str, ...] = ("on",)
    """`THYME_SANDBOX_FAST`: `on`, `off` to run without the accelerations of `accelerations.py`, or
    those to leave out, each with a `-`, comma-separated: `-memory_image,-affinity`."""
    tools: tuple[str, ...] = ()
    """`THYME_SANDBOX_TOOLS`: Python files and folders of the user's that generated code can import,
    comma-separated, absolute here; see `tools`."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check(VARIABLES[_variable(item.name)], getattr(self, item.name))
        if self.mode == "strict" and self.disable:
            raise SettingsError("THYME_SANDBOX=strict cannot go with THYME_SANDBOX_DISABLE")
        left_out(self.fast)

    def uses(self, acceleration: Acceleration) -> bool:
        """Tell whether an acceleration is on."""
        return acceleration not in left_out(self.fast)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> SandboxSettings:
        """Return the settings that the environment asks for.

        Args:
            environ: Variables to read; None reads `os.environ`.

        Raises:
            SettingsError: A variable has a value that cannot be used; the message names it.
        """
        read = Reader(environ)
        values: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            value = read.given(_variable(item.name))
            if value is not None:
                values[item.name] = value
        if "tools" in values:
            values["tools"] = tool_paths(values["tools"])
        return cls(**values)


def _variable(name: str) -> str:
    return "THYME_SANDBOX" if name == "mode" else f"THYME_SANDBOX_{name.upper()}"
