"""What tests share with programs of theirs that run where pytest is not installed."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY_MODEL = ROOT / "swift_thyme" / "testbed" / "model"


def as_argv(flags: dict[str, Any]) -> list[str]:
    """Return flags as command-line arguments."""
    argv: list[str] = []
    for name, value in flags.items():
        argv.append(f"--{name}")
        argv.extend(str(v) for v in (value if isinstance(value, list) else [value]))
    return argv
