"""Which command does a script run? It is run, with a stand-in for ``swift`` that writes it down.

Reading the script would be reading shell. The stand-in comes first on the PATH, so the script does
all that it does before it starts the job, and the job itself is not started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swift_thyme.core.errors import DataError

__all__ = ["JobCommand", "recorded"]

_LIMIT_S = 60.0
_COMMAND = "rlhf"
_STAND_IN = """#!{python}
import json, os, sys
if sys.argv[1:2] == ["{command}"]:
    with open({file!r}, "w", encoding="utf-8") as file:
        json.dump([sys.argv[2:], dict(os.environ)], file)
"""


@dataclass(frozen=True, slots=True)
class JobCommand:
    """A call of ``swift rlhf``."""

    argv: tuple[str, ...]
    """Its words, without ``swift rlhf``."""
    environ: Mapping[str, str]


def recorded(script: str | Path, argv: Sequence[str], environ: Mapping[str, str]) -> JobCommand:
    """Run a script and return the job that it would start.

    Args:
        script: A script for bash.
        argv: Its own words.
        environ: Its environment; of several hosts (``HOSTFILE``) nothing is started.

    Raises:
        DataError: It ended without calling ``swift rlhf``; the message has its last line.
    """
    with tempfile.TemporaryDirectory(prefix="thyme-job-") as folder:
        file = Path(folder, "command.json")
        program = Path(folder, "swift")
        program.write_text(
            _STAND_IN.format(python=sys.executable, command=_COMMAND, file=str(file)), "utf-8"
        )
        program.chmod(0o755)
        own = {k: v for k, v in environ.items() if k != "HOSTFILE"}
        own["PATH"] = f"{folder}{os.pathsep}{environ.get('PATH', os.defpath)}"
        try:
            done = subprocess.run(
                ["bash", str(script), *argv],
                env=own,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"{script}: cannot be run: {error}") from error
        if not file.is_file():
            *_, last = done.stderr.strip().splitlines() or ["it says nothing"]
            raise DataError(f"{script} calls no `swift {_COMMAND}`: {last}")
        words, seen = json.loads(file.read_text("utf-8"))
    return JobCommand(tuple(words), seen)
