"""``thyme serve``: opens the engine, then the port."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Annotated

import typer
from rich.console import Console

from swift_thyme.commands import model_options as options
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.trajectory import DEFAULT_MAX_IMAGES, DEFAULT_MAX_TURNS
from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.interrupt import exit_on_interrupt, interrupts_left_alone
from swift_thyme.inference.loop import DEFAULT_MAX_TOKENS, LoopSettings
from swift_thyme.inference.model import ModelSettings, open_engine, quiet_hosts
from swift_thyme.inference.prompt_images import ImageLimits

__all__ = ["serve_command"]

_GRACE_S = 10
"""Seconds that running requests have after a request to end."""


def serve_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(help="Bearer token that requests must have.", envvar="THYME_API_KEY"),
    ] = None,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_image_mb: Annotated[int, typer.Option(min=1, help="Largest image file, in MiB.")] = 32,
    max_image_megapixels: Annotated[
        float, typer.Option(min=0.01, help="Largest image, in millions of pixels.")
    ] = 80.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Trajectories at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait.")] = 256,
    model: options.Model = None,
    engine: options.EngineName = "auto",
    endpoint: options.Endpoint = None,
    endpoint_key: options.EndpointKey = None,
    model_type: options.ModelType = None,
    template: options.Template = None,
    dtype: options.Dtype = None,
    gpu_memory_utilization: options.GpuMemory = 0.9,
    tensor_parallel_size: options.TensorParallel = 1,
    engine_kwargs: options.EngineKwargs = None,
    system: options.System = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    greedy_code: options.GreedyCode = True,
    seed: options.Seed = 0,
    max_turns: options.MaxTurns = DEFAULT_MAX_TURNS,
    max_tokens: options.MaxTokens = DEFAULT_MAX_TOKENS,
    max_model_len: options.MaxModelLen = None,
    max_images: options.MaxImages = DEFAULT_MAX_IMAGES,
    max_pixels: options.MaxPixels = None,
) -> None:
    """Serve a model at an OpenAI-compatible endpoint that runs the whole loop per request."""
    try:
        import uvicorn  # noqa: F401 - found out before a model is loaded

        from swift_thyme.serve.app import ServeSettings
    except ImportError as error:
        raise SettingsError("thyme serve needs: pip install 'swift_thyme[serve]'") from error
    quiet_hosts()
    settings = options.model_settings(
        engine_kwargs,
        model=model,
        engine=engine,
        endpoint=endpoint,
        api_key=endpoint_key,
        model_type=model_type,
        template=template,
        dtype=dtype,
        gpu_memory_utilization=gpu_memory_utilization,
        tensor_parallel_size=tensor_parallel_size,
        max_model_len=max_model_len,
        max_images=max_images,
        max_pixels=max_pixels,
        greedy_code=greedy_code,
        concurrency=concurrency,
    )
    serve_settings = ServeSettings(
        system=options.read_system(system, settings),
        loop=LoopSettings(
            sampling=Sampling(temperature, top_p, top_k, repetition_penalty, seed),
            max_turns=max_turns,
            max_tokens=max_tokens,
        ),
        api_key=api_key or None,
        max_body_bytes=max_body_mb << 20,
        images=ImageLimits(max_image_mb << 20, int(max_image_megapixels * 1e6)),
        concurrency=concurrency,
        queue=queue,
    )
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise SettingsError(f"--host {host} --port {port}: {error}") from error
    with listener, exit_on_interrupt():
        asyncio.run(_serve(settings, serve_settings, listener, host))


async def _serve(
    settings: ModelSettings, serve_settings: object, listener: socket.socket, host: str
) -> None:
    import uvicorn

    from swift_thyme.sandbox import SandboxPool, SandboxSettings
    from swift_thyme.serve.app import ServeSettings, make_app

    assert isinstance(serve_settings, ServeSettings)
    console = Console(stderr=True, soft_wrap=True)
    async with SandboxPool(SandboxSettings.from_env()) as pool, open_engine(settings) as engine:
        config = uvicorn.Config(
            make_app(engine, pool, serve_settings),
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            lifespan="off",
        )
        port = listener.getsockname()[1]
        if serve_settings.api_key is None and not _is_loopback(host):
            console.print("[yellow]no --api-key: everybody who reaches this port can ask[/]")
        console.print(f"{engine.model_name} at http://{host}:{port}/v1", highlight=False)
        # The server ends by itself on a signal, and raises it once more when it has.
        with interrupts_left_alone():
            await uvicorn.Server(config).serve(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
