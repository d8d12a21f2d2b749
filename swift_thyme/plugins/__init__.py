"""The files for ``--external_plugins``, as an installed package has them.

``thyme plugin`` prints the path of one. ``plugin/`` of a checkout holds the same files.
"""

from __future__ import annotations

from enum import Enum
from importlib.resources import files
from pathlib import Path

__all__ = ["Plugin", "plugin_file"]


class Plugin(str, Enum):
    """The plugin files, by the name of each without its ending."""

    AGENT_RM = "agent_rm"
    REWARDS_ONLY = "rewards_only"
    SFT_ONLY = "sft_only"
    TESTBED = "testbed"


def plugin_file(plugin: Plugin) -> Path:
    """Return the absolute path of a plugin file."""
    return Path(str(files(__name__))).resolve() / f"{plugin.value}.py"
