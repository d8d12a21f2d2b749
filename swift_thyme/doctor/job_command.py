"""Which call of ``swift rlhf`` do words stand for?

A script is run, with a stand-in for ``swift`` that writes its words down; reading it would be
reading shell. The stand-in comes first on the PATH, so the script does all that it does before it
starts the job, and the job itself is not started.
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

from swift_thyme.core.errors import DataError, SettingsError

__all__ = ["JobCommand", "command_of", "recorded"]

_LIMIT_S = 60.0
_COMMAND = "rlhf"
_SHELLS = ("bash", "sh", "dash", "zsh")
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
    variables: Mapping[str, str]
    """Of its environment."""


def command_of(words: Sequence[str]) -> JobCommand:
    """Return the job that a command line would start, in the environment of this process.

    Args:
        words: ``NAME=VALUE`` words, then ``swift rlhf FLAGS``, its flags alone, or a script.

    Raises:
        SettingsError: They are empty, or another command of ms-swift.
        DataError: A script starts no such job.
    """
    variables, rest = dict(os.environ), list(words)
    while rest and "=" in rest[0] and not rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        variables[name] = value
    script = next((word for word in rest[:2] if word.endswith(".sh")), None)
    if script is not None and (rest[0] == script or Path(rest[0]).name in _SHELLS):
        return recorded(script, rest[rest.index(script) + 1 :], variables)
    if rest[:1] == ["swift"]:
        rest = rest[1:]
        if rest and rest[0] != _COMMAND and not rest[0].startswith("-"):
            raise SettingsError(f"--job looks at swift {_COMMAND} alone, not at swift {rest[0]}")
    if rest[:1] == [_COMMAND]:
        rest = rest[1:]
    if not rest:
        raise SettingsError("--job needs the flags of swift rlhf, a YAML file or a script")
    return JobCommand(tuple(rest), variables)


def recorded(script: str | Path, argv: Sequence[str], variables: Mapping[str, str]) -> JobCommand:
    """Run a script and return the job that it would start.

    Args:
        script: A script for bash.
        argv: Its own words.
        variables: All of its environment; of several hosts (``HOSTFILE``) nothing is started.

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
        own = {k: v for k, v in variables.items() if k != "HOSTFILE"}
        own["PATH"] = f"{folder}{os.pathsep}{variables.get('PATH', os.defpath)}"
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
