"""The command `thyme tools`: what the model has to be told about tools of one's own.

The modules are looked at in a session of the sandbox, where they are loaded. Nothing of them runs
in this process, and with `THYME_SANDBOX_URL` the answer is about the servers' tools.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from swift_thyme.core.errors import DataError, SandboxUnavailableError, SettingsError
from swift_thyme.sandbox import open_pool
from swift_thyme.sandbox.tools import VARIABLE

__all__ = ["PLACE", "tools_command", "tools_text"]

PLACE = "{tools}"
"""Where a system prompt wants the text."""

_LOOK = """
import inspect, json
from swift_thyme.sandbox.tool_loading import loaded_tools
def first_line(thing):
    return (inspect.getdoc(thing) or "").partition("\\n")[0].strip()
def look_at(name):
    module = __import__(name)
    public = [key for key in vars(module) if not key.startswith("_")]
    found = []
    for key in getattr(module, "__all__", public):
        thing = getattr(module, key)
        ours = str(getattr(thing, "__module__", "")).partition(".")[0] == name
        if callable(thing) and ours:
            try: signature = str(inspect.signature(thing))
            except (TypeError, ValueError): signature = "(...)"
            found.append([f"{name}.{key}{signature}", first_line(thing)])
    return [name, first_line(module) if module.__doc__ else "", found]
print(json.dumps([look_at(name) for name in loaded_tools()]))
"""


def tools_text() -> str:
    """Return the paragraph of a system prompt that names the tools of the sandbox.

    Raises:
        SettingsError: There are none.
        SandboxUnavailableError: A tool cannot be loaded, or the sandbox does not run.
    """
    with open_pool() as pool, pool.open_sync() as session:
        result = session.run_sync(_LOOK)
    if not result.ok:
        raise SandboxUnavailableError(f"the tools cannot be looked at: {result.error}")
    modules = json.loads(result.stdout)
    if not modules:
        raise SettingsError(f"there are no tools: {VARIABLE} is not set where code runs")
    lines = ["Your code can import these modules too:"]
    for name, about, functions in modules:
        lines.append(f"- {name}: {about}" if about else f"- {name}")
        lines += [f"  - {call}: {what}" if what else f"  - {call}" for call, what in functions]
    return "\n".join(lines)


def tools_command(
    prompt: Annotated[
        Path | None,
        typer.Option(
            "--prompt",
            help=f"A system prompt: print it with the text at its {PLACE}, else at its end.",
        ),
    ] = None,
) -> None:
    """Load the tools of THYME_SANDBOX_TOOLS and print what a system prompt says about them."""
    text = tools_text()
    if prompt is not None:
        try:
            given = prompt.read_text(encoding="utf-8").rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--prompt {prompt}: {error}") from error
        text = given.replace(PLACE, text) if PLACE in given else f"{given}\n\n{text}"
    typer.echo(text)
