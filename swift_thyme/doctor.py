"""Is this machine ready? One line per finding: ok, or what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Finding", "findings"]

TESTED_VERSIONS = {
    "ms-swift": "4.6.0",
    "torch": "2.11.0",
    "torchvision": "0.26.0",
    "transformers": "5.19.0",
    "vllm": "0.23.0",
    "trl": "0.29.1",
    "qwen_vl_utils": "0.0.14",
}
"""Versions that this package was run with."""

LEAST_FREE_GIB = 10


class Finding(NamedTuple):
    """One line of the report."""

    subject: str
    ok: bool
    text: str
    """What was found; where ``ok`` is False, also what to do."""


def _installed(name: str) -> str | None:
    # The CPU build of vLLM is a distribution of its own that provides the same package.
    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _versions() -> Iterator[Finding]:
    python = platform.python_version()
    supported = (3, 10) <= tuple(map(int, platform.python_version_tuple()[:2])) < (3, 13)
    yield Finding("python", supported, python if supported else f"{python}: use 3.10 to 3.12")
    for name, tested in TESTED_VERSIONS.items():
        version = _installed(name)
        if version is None:
            yield Finding(name, False, f'missing: pip install "{name}=={tested}"')
        elif version.partition("+")[0] == tested:
            yield Finding(name, True, version)
        else:
            yield Finding(name, False, f"{version}: tested with {tested}")


def _devices() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("gpu", True, names)
    else:
        yield Finding("gpu", True, "none: jobs need --use_cpu true, see scripts/quickstart.sh")


def _sandbox() -> Iterator[Finding]:
    from swift_thyme.sandbox.layers import probe_layers

    for layer in probe_layers():
        state = "on" if layer.on else "off"
        yield Finding(f"sandbox: {layer.name}", layer.on, f"{state}: {layer.reason}")


def _judge() -> Iterator[Finding]:
    from swift_thyme.errors import SettingsError
    from swift_thyme.rewards import RewardSettings

    try:
        RewardSettings.from_env()
    except SettingsError as error:
        yield Finding("reward settings", False, str(error))
        return
    yield Finding("reward settings", True, "valid")


def _disk() -> Iterator[Finding]:
    for folder in (Path.cwd(), Path(os.environ.get("TMPDIR", "/tmp"))):
        free_gib = shutil.disk_usage(folder).free / 2**30
        enough = free_gib >= LEAST_FREE_GIB
        text = f"{free_gib:.0f} GiB free"
        yield Finding(f"disk: {folder}", enough, text if enough else f"{text}: make room")


def findings() -> Iterator[Finding]:
    """Yield everything that was found, in the order of the report."""
    for part in (_versions, _devices, _sandbox, _judge, _disk):
        yield from part()
