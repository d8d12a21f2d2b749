"""The ``thyme`` command."""

from __future__ import annotations

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
from swift_thyme.commands.plan import plan_command
from swift_thyme.commands.recipe import init_command, plugin_command
from swift_thyme.commands.sandbox import sandbox_command
from swift_thyme.commands.sandbox_server import sandbox_server_command
from swift_thyme.commands.serve import serve_command
from swift_thyme.commands.tools import tools_command
from swift_thyme.commands.view import view_command
from swift_thyme.core import environment
from swift_thyme.core.errors import ThymeError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("sandbox")(sandbox_command)
app.command("sandbox-server")(sandbox_server_command)
app.command("tools")(tools_command)
app.command("ask")(ask_command)
app.command("serve")(serve_command)
app.command("eval")(eval_command)
app.add_typer(data_app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        say(swift_thyme.__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Thyme for ms-swift: models that write and run Python while they reason."""
    # Before any command reads the environment.
    environment.tidy_options()
    unknown = environment.unknown_variables()
    if unknown is not None:
        messages.warn(f"warning: {unknown}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="output folder of a GRPO run")],
    plot: Annotated[
        bool, typer.Option("--plot", help="draw its curves too, into curves.png beside its log")
    ] = False,
) -> None:
    """Print what a GRPO run did: held-out results and training, before and after."""
    from swift_thyme.view import run_table as reporting

    reporting.main([str(folder), *(["--plot"] if plot else [])])


app.command("view")(view_command)
# Flags of a job are for the command itself to read.
app.command("doctor", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    doctor_command
)
app.command("plan")(plan_command)
app.command("plugin")(plugin_command)
app.command("init")(init_command)


def main() -> None:
    """Run the command; an error of ours, or of a file, is one line and no traceback."""
    debug = False
    try:
        debug = environment.Reader().switch("THYME_DEBUG")
        app()
    except (ThymeError, OSError) as error:
        if debug:
            raise
        messages.error(_line(error))
        raise SystemExit(1) from error


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    main()
