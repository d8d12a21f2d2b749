"""Runs code that a model wrote, contained, at about the speed of a bare `exec`.

Threat model. The code is hostile: reinforcement learning finds every hole. Covered: files and
secrets of the host, the network, other processes, other sessions, the trainer's memory and time,
floods of memory, disk, processes and output, forged results, and images made to break decoders.
Not covered: bugs in the kernel, side channels, and what the Python installation and /usr contain,
which the code can read. `docs/sandbox.md` names what depends on which layer.

Typical use::

    async with open_pool() as pool:
        session = await pool.open([InputImage("/data/a.jpg", Path("/data/a.jpg"))])
        result = await session.run("print(1 + 1)", timeout_s=10.0)
        text = render_observation(result).text
        await session.close()
"""

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import (
    ExecutionResult,
    ExecutionStatus,
    InputImage,
    ReturnedImage,
)
from swift_thyme.core.observation import Observation, render_observation
from swift_thyme.sandbox.backends import open_pool
from swift_thyme.sandbox.interface import BackendSession, SandboxBackend
from swift_thyme.sandbox.pool import SandboxPool, SandboxSession
from swift_thyme.sandbox.sandbox_settings import SandboxSettings

__all__ = [
    "open_pool",
    "SandboxBackend",
    "BackendSession",
    "SandboxPool",
    "SandboxSession",
    "SandboxSettings",
    "InputImage",
    "ReturnedImage",
    "ExecutionResult",
    "ExecutionStatus",
    "Observation",
    "render_observation",
    "SandboxUnavailableError",
]
