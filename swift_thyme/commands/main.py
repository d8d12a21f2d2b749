"""The ``thyme`` command."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

import swift_thyme
from swift_thyme.commands import messages
from swift_thyme.commands.ask import ask_command
from swift_thyme.commands.data import data_app
from swift_thyme.commands.doctor import doctor_command
from swift_thyme.commands.evaluate import eval_command
from swift_thyme.commands.messages import say
from swift_thyme.commands.sandbox import sandbox_command
from swift_thyme.commands.sandbox_server import sandbox_server_command
from swift_thyme.commands.serve import serve_command
from swift_thyme.commands.view import view_command
from swift_thyme.core import environment
from swift_thyme.core.errors import ThymeError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Thyme for ms-swift: models that write and run Python while they reason.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("sandbox")(sandbox_command)
app.command("sandbox-server")(sandbox_server_command)
app.command("ask")(ask_command)
app.command("serve")(serve_command)
app.command("eval")(eval_command)
app.add_typer(data_app, name="data")


@app.callback()
def start() -> None:
    """Look at the environment before any command reads it."""
    environment.tidy_options()
    unknown = environment.unknown_variables()
    if unknown is not None:
        messages.warn(f"warning: {unknown}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="output folder of a GRPO run")],
) -> None:
    """Print what a GRPO run did: held-out results and training, before and after."""
    from swift_thyme.view import run_table as reporting

    reporting.main([str(folder)])


@app.command()
def plugins() -> None:
    """Print the folder of the files for --external_plugins."""
    say(str(files("swift_thyme.plugins")))


@app.command()
def version() -> None:
    """Print the version."""
    say(swift_thyme.__version__)


app.command("view")(view_command)
# Flags of a job are for the command itself to read.
app.command("doctor", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    doctor_command
)


def main() -> None:
    """Run the command; an error of ours is one line, not a traceback."""
    try:
        app()
    except ThymeError as error:
        messages.error(str(error))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
