"""``thyme sandbox-server``: starts the sandbox, then opens the port."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated

import typer

from swift_thyme.commands.listening import SHUTDOWN_GRACE_S, is_loopback, listen
from swift_thyme.commands.messages import note
from swift_thyme.commands.model_options import finite
from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SettingsError
from swift_thyme.inference.interrupt import exit_on_interrupt, interrupts_left_alone

__all__ = ["sandbox_server_command"]

_KEEP_IDLE_S = 75
"""Longer than a client keeps an idle connection: a block must not meet one that is being closed."""


def sandbox_server_command(
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this host's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8100,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions at once.")] = 256,
    idle_s: Annotated[
        float,
        typer.Option(
            "--idle-s",
            min=0.1,
            help="Seconds without a block after which a session is closed.",
            callback=finite,
        ),
    ] = 1800.0,
    max_body_mb: Annotated[
        int, typer.Option(min=1, help="Largest request, in MiB: the images of a session.")
    ] = 256,
) -> None:
    """Run code for trainers elsewhere: the sandbox of this host behind a port.

    The limits of blocks are this process's THYME_SANDBOX_ variables. THYME_SANDBOX_TOKEN is the
    bearer token that requests must have. docs/sandbox_remote.md has more.
    """
    try:
        import uvicorn  # noqa: F401 - found out before workers start

        from swift_thyme.sandbox_server.app import SandboxServerSettings
    except ImportError as error:
        raise SettingsError(
            "thyme sandbox-server needs: pip install 'swift_thyme[serve]'"
        ) from error
    token = Reader().text("THYME_SANDBOX_TOKEN")
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"--host {host}: everybody who reaches that address could run code; set "
            "THYME_SANDBOX_TOKEN to a secret here and for the clients"
        )
    settings = SandboxServerSettings(token, max_sessions, idle_s, max_body_mb << 20)
    with listen(host, port) as listener, exit_on_interrupt():
        asyncio.run(_serve(settings, listener, host))


async def _serve(settings: object, listener: socket.socket, host: str) -> None:
    import uvicorn

    # The pool of this host, whatever THYME_SANDBOX_URL says: a server is the end of the way.
    from swift_thyme.sandbox import SandboxPool, SandboxSettings
    from swift_thyme.sandbox_server.app import SandboxServerSettings, make_app

    assert isinstance(settings, SandboxServerSettings)
    async with SandboxPool(SandboxSettings.from_env()) as pool:
        config = uvicorn.Config(
            make_app(pool, settings),
            log_level="warning",
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            timeout_keep_alive=_KEEP_IDLE_S,
            lifespan="on",
        )
        shown = f"[{host}]" if ":" in host else host
        note(f"sandbox at http://{shown}:{listener.getsockname()[1]}")
        # The server ends by itself on a signal, and raises it once more when it has.
        with interrupts_left_alone():
            await uvicorn.Server(config).serve(sockets=[listener])
