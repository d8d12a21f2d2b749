"""``thyme doctor --job``: the preflight of a command line, without ms-swift.

A job's flags come as words (``swift rlhf`` in front of them or not), as a YAML or JSON file as
ms-swift takes it, or as a script that calls ``swift``, which is run with a stand-in for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from swift_thyme.core.environment import Reader, parse_switch
from swift_thyme.core.errors import DataError, SettingsError
from swift_thyme.core.finding import Finding
from swift_thyme.doctor.job_command import command_of
from swift_thyme.host.job_plan import plan_of
from swift_thyme.host.preflight import preflight

__all__ = ["job_findings", "read_flags"]

_FILES = (".yaml", ".yml", ".json")


def job_findings(words: Sequence[str]) -> list[Finding]:
    """Return the preflight of a job as findings.

    Args:
        words: Its command line, or a file; variables (``NAME=VALUE``) may stand in front.

    Raises:
        SettingsError: It is no command of ``swift rlhf`` with GRPO.
        DataError: The file cannot be read.
    """
    command = command_of(words)
    flags = read_flags(command.argv)
    kind = flags.get("rlhf_type")
    if kind != "grpo":
        raise SettingsError(f"--job: --rlhf_type is {kind}; the preflight is for grpo alone")
    # A file may bring variables, under ENV; those of the environment win.
    brought = flags.pop("ENV", None)
    brought = brought if isinstance(brought, Mapping) else {}
    read = Reader({**{str(k): str(v) for k, v in brought.items()}, **command.variables})
    processes = read.given("WORLD_SIZE") or read.given("NPROC_PER_NODE") or 1
    assert isinstance(processes, int)  # both are counts
    plan = plan_of(SimpleNamespace(**flags), read.given("MAX_PIXELS"), processes)
    return [replace(found, subject=f"job: {found.subject}") for found in preflight(plan)]


def read_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Return flags by name; values are read as ms-swift's parser would, without its types.

    Args:
        argv: Words behind ``swift rlhf``; a file of flags may come first.

    Raises:
        SettingsError: A word stands where a flag is expected.
        DataError: The file cannot be read.
    """
    flags: dict[str, Any] = {}
    rest = list(argv)
    if rest and rest[0].endswith(_FILES):
        flags.update(_file(Path(rest.pop(0))))
    for name, values in _flags(rest):
        flags[name] = values[0] if len(values) == 1 else values or True
    return flags


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    name = ""
    values: list[Any] = []
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            if name:
                yield name, values
            name, joined, value = word[2:].partition("=")
            values = [_value(value)] if joined else []
        elif not name:
            raise SettingsError(f"--job: expected a flag of swift rlhf, got {word!r}")
        else:
            values.append(_value(word))
    if name:
        yield name, values


def _value(word: str) -> Any:
    """Return a number or a switch as such, and anything else as it is."""
    if word.lower() in ("true", "false"):
        return parse_switch(word)
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _file(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (OSError, ValueError) as error:
        raise DataError(f"--job {path}: {error}") from error
    if not isinstance(value, Mapping):
        raise DataError(f"--job {path}: expected one flag a line, as NAME: VALUE")
    # YAML reads 5e-7 as text.
    return {k: _value(v) if isinstance(v, str) else v for k, v in value.items()}


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise DataError("--job: a YAML file needs PyYAML: pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
