"""The commands ``thyme plugin`` and ``thyme init``: what a job needs, without a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swift_thyme.commands.messages import say
from swift_thyme.plugins import Plugin, plugin_file
from swift_thyme.recipe.folder import write_folder

__all__ = ["init_command", "plugin_command"]


def plugin_command(
    name: Annotated[
        Plugin,
        typer.Argument(
            help="agent_rm: all of it, for --O3 true. rewards_only, sft_only: that part alone. "
            "testbed: the embedded model, beside agent_rm."
        ),
    ] = Plugin.AGENT_RM,
) -> None:
    """Print the path of a file for --external_plugins "$(thyme plugin)"."""
    say(str(plugin_file(name)))


def init_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made where it is missing.")],
    force: Annotated[
        bool, typer.Option("--force", help="Write over files that were changed.")
    ] = False,
) -> None:
    """Write the training scripts, the prompt and a configuration to start from into a folder."""
    written = write_folder(folder, plugin_file(Plugin.AGENT_RM), force=force)
    if not written.new:
        say(f"{folder}: all {len(written.same)} files are there, nothing to do")
        return
    say(f"{folder}: wrote {', '.join(written.new)}")
    say(
        "next: cd there; MODEL=... DATASET=rl.jsonl SAVE_PATH=out sh rl.sh, or enter them in "
        "rl.yaml and run swift rlhf rl.yaml"
    )
    say(
        "a judge: add REWARD_API_ADDRESS=http://HOST and QWEN_API_PORT=PORT to .deepspeed_env; "
        "without one, rules alone decide"
    )
