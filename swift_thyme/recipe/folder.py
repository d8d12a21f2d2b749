"""A folder to train from: the recipe's scripts, the prompt and the settings, without a checkout.

The scripts here are the ones of a checkout too: ``scripts/`` holds links to them. Nothing is
written over a file that says something else, so the folder can be worked in and made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from swift_thyme.core.errors import SettingsError

__all__ = ["Written", "recipe_files", "write_folder"]

_SCRIPTS = ("common.sh", "sft_stage1.sh", "sft_stage2.sh", "rl.sh", "rl_server.sh")
_CONFIGURATION = "rl.yaml"
_EXAMPLES = ("hostfile.example", "deepspeed_env.example")
_VARIABLES = ".deepspeed_env"
_CONVERT = (
    "- Where you name places from 0 to 1000, convert them before you crop: x * width / 1000 and "
    "y * height / 1000, with the size from the prompt."
)
"""For models that name places so, whatever the size of the picture."""
_BEFORE = "- Names and imports"
_OF_THE_JUDGE = ("REWARD_API_ADDRESS=", "QWEN_API_PORT=")


class Written(NamedTuple):
    """What `write_folder` did."""

    new: tuple[str, ...]
    """Names of the files that it wrote."""
    same: tuple[str, ...]
    """Names of the files that were there already, as they were to be."""


def recipe_files(folder: Path, plugin: Path) -> Mapping[str, str]:
    """Return the files of a folder to train from: name to text.

    Args:
        folder: Where they are to lie, absolute.
        plugin: The file for ``--external_plugins``, absolute.
    """
    here = files("swift_thyme.recipe")
    found = {
        name: here.joinpath(name).read_text("utf-8")
        for name in (*_SCRIPTS, _CONFIGURATION, *_EXAMPLES)
    }
    paths = {"@FOLDER@": str(folder), "@PLUGIN@": str(plugin)}
    for mark, path in paths.items():
        # A JSON string is a YAML string: the path may hold any character.
        found[_CONFIGURATION] = found[_CONFIGURATION].replace(f'"{mark}', json.dumps(path)[:-1])
    # The addresses of the example are nobody's judge; with them a job would wait for one.
    lines = found["deepspeed_env.example"].splitlines(keepends=True)
    found[_VARIABLES] = "".join(line for line in lines if not line.startswith(_OF_THE_JUDGE))
    prompt = files("swift_thyme.core").joinpath("system_prompt.txt")
    found["prompt.txt"] = text = prompt.read_text("utf-8")
    found["prompt_0_to_1000.txt"] = text.replace(_BEFORE, f"{_CONVERT}\n{_BEFORE}")
    return found


def write_folder(folder: Path, plugin: Path, *, force: bool = False) -> Written:
    """Write a folder to train from.

    Args:
        folder: Made where it is missing.
        plugin: The file for ``--external_plugins``, absolute.
        force: Whether files that say something else are written over.

    Raises:
        SettingsError: Such files are there, and nothing was written; or the folder cannot be
            written.
    """
    folder = folder.absolute()
    wanted = recipe_files(folder, plugin)
    try:
        there = {
            name: (folder / name).read_text("utf-8", errors="replace")
            for name in wanted
            if (folder / name).exists()
        }
        changed = sorted(name for name, text in there.items() if text != wanted[name])
        if changed and not force:
            raise SettingsError(
                f"{folder} holds files that were changed: {', '.join(changed)}; nothing was "
                "written. Name another folder, or write over them with --force"
            )
        folder.mkdir(parents=True, exist_ok=True)
        new = [name for name, text in wanted.items() if there.get(name) != text]
        for name in new:
            path = folder / name
            path.write_text(wanted[name], "utf-8")
            if name in _SCRIPTS:
                path.chmod(0o755)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{error.filename or folder} cannot be written: {reason}") from error
    return Written(tuple(new), tuple(name for name in wanted if name not in new))
