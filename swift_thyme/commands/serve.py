"""``thyme serve``: opens the engine, then the port."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Sequence
from typing import Annotated

import typer

from swift_thyme.commands.listening import SHUTDOWN_GRACE_S, is_loopback, listen
from swift_thyme.commands.messages import note, warn
from swift_thyme.commands.model_options import ModelOptions, finite, with_model_options
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.inference.interrupt import exit_on_interrupt, interrupts_left_alone
from swift_thyme.inference.model import ModelSettings, open_engine, quiet_hosts

__all__ = ["serve_command"]

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")


@with_model_options
def serve_command(
    options: ModelOptions,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(help="Bearer token that requests must have.", envvar="THYME_API_KEY"),
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_image_mb: Annotated[int, typer.Option(min=1, help="Largest image file, in MiB.")] = 32,
    max_image_megapixels: Annotated[
        float,
        typer.Option(min=0.01, help="Largest image, in millions of pixels.", callback=finite),
    ] = 80.0,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Trajectories at once; default: 32 for each copy of the model."),
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 256,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may ask (https://chat.example); may be given several times."
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log/--no-log", help="One line per request on standard error.")
    ] = True,
) -> None:
    """Serve a model at an OpenAI-compatible endpoint that runs the whole loop per request."""
    try:
        import uvicorn  # noqa: F401 - found out before a model is loaded

        from swift_thyme.serve.app import ServeSettings
    except ImportError as error:
        raise SettingsError("thyme serve needs: pip install 'swift_thyme[serve]'") from error
    quiet_hosts()
    concurrency = options.at_once(concurrency)
    settings = options.model_settings(concurrency=concurrency, per_request=True)
    serve_settings = ServeSettings(
        system=options.system_prompt(settings),
        loop=options.loop_settings(settings),
        api_key=api_key or None,
        max_body_bytes=max_body_mb << 20,
        images=ImageLimits(max_image_mb << 20, int(max_image_megapixels * 1e6), bounded=True),
        concurrency=concurrency,
        queue=queue,
        cors_origins=_origins(cors_origin or ()),
    )
    _start_log(logging.INFO if log else logging.WARNING)
    with listen(host, port) as listener, exit_on_interrupt():
        asyncio.run(_serve(settings, serve_settings, listener, host))


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    """Return the origins as browsers write them.

    Raises:
        SettingsError: One can never be what a browser sends.
    """
    for origin in given:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"--cors-origin {origin}: expected scheme and host in lower case, with a port "
                "where it is not the usual one, as https://chat.example:8443, or *"
            )
    return tuple(given)


def _start_log(level: int) -> None:
    """Write what the server logs to standard error, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("swift_thyme.serve")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


async def _serve(
    settings: ModelSettings, serve_settings: object, listener: socket.socket, host: str
) -> None:
    import uvicorn

    from swift_thyme.sandbox import open_pool
    from swift_thyme.serve.app import ServeSettings, make_app

    assert isinstance(serve_settings, ServeSettings)
    async with open_pool() as pool, open_engine(settings) as engine:
        config = uvicorn.Config(
            make_app(engine, pool, serve_settings),
            log_level="warning",
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            lifespan="off",
        )
        port = listener.getsockname()[1]
        if serve_settings.api_key is None and not is_loopback(host):
            warn("no --api-key: everybody who reaches this port can ask")
        if serve_settings.api_key is None and serve_settings.cors_origins:
            warn("--cors-origin without --api-key: every reader of such a page can ask")
        note(f"{engine.model_name} at http://{host}:{port}/v1")
        # The server ends by itself on a signal, and raises it once more when it has.
        with interrupts_left_alone():
            await uvicorn.Server(config).serve(sockets=[listener])
