"""Models by name: may the hub be asked, or does its cache hold the model?

ms-swift fetches models from ModelScope, or from Hugging Face where it is told to. Without a network
its tries take half a minute and end in a traceback. So the hub is asked once for a sign of life,
and the cache before the answer is no.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import EngineError
from swift_thyme.core.hub_cache import Client, cached_model

__all__ = ["Hub", "chosen_hub", "find_model", "one_line"]

_PROBE_S = 5.0


@dataclass(frozen=True, slots=True)
class Hub:
    """Where models are looked up."""

    name: str
    url: str
    other: str
    """How to choose the other one."""
    offline: bool
    """Whether the environment forbids to ask it."""


def chosen_hub(use_hf: bool | None) -> Hub:
    """Return the hub that ms-swift would ask.

    Args:
        use_hf: Whether it is Hugging Face; None asks the environment (``USE_HF``), as ms-swift
            does.

    Raises:
        SettingsError: A variable has a value that cannot be used.
    """
    read = Reader()
    if read.switch("USE_HF") if use_hf is None else use_hf:
        from huggingface_hub import constants

        other, offline = "--no-use-hf asks ModelScope", bool(constants.HF_HUB_OFFLINE)
        return Hub("Hugging Face", constants.ENDPOINT, other, offline)
    domain = read.text("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    url = domain if domain.startswith("http") else f"https://{domain}"
    offline = read.switch("MODELSCOPE_OFFLINE")
    return Hub("ModelScope", url, "--use-hf asks Hugging Face", offline)


def find_model(name: str, use_hf: bool | None, transport: httpx.BaseTransport | None = None) -> str:
    """Return the folder of a model of a hub; downloads it where needed.

    Args:
        name: Name at the hub.
        use_hf: See :func:`chosen_hub`.
        transport: Stands in for the network.

    Raises:
        EngineError: Neither the hub nor its cache gives it; one line says why.
    """
    from swift_thyme.host.model_loading import fetch_model

    hub = chosen_hub(use_hf)
    problem = "the environment says offline" if hub.offline else _silence(hub, transport)
    if problem is not None:
        client: Client = "huggingface_hub" if hub.name == "Hugging Face" else "modelscope"
        folder = cached_model(name, client)
        if folder is not None:
            return folder
        raise EngineError(
            f"--model {name}: no folder of this name, not in the cache of {hub.name}, and "
            f"{hub.url} cannot be asked ({problem}); give the path of a local folder "
            f"({hub.other})"
        )
    try:
        return fetch_model(name, use_hf)
    except Exception as error:
        # The clients of two hubs share no base class.
        raise EngineError(
            f"--model {name}: no folder of this name, and {hub.name} gives no such model: "
            f"{one_line(error)} ({hub.other})"
        ) from error


def one_line(error: BaseException) -> str:
    """Return kind and first words of an error of somebody else's code."""
    words = " ".join(str(error).split())
    if len(words) > 300:
        words = f"{words[:300]}…"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _silence(hub: Hub, transport: httpx.BaseTransport | None) -> str | None:
    """Return why the hub does not answer; None where it does, whatever it says."""
    try:
        with httpx.Client(transport=transport, timeout=_PROBE_S) as client:
            client.head(hub.url)
    except httpx.TransportError as error:
        # Each client has its own store of certificates; theirs may know this one.
        return None if "CERTIFICATE" in str(error) else one_line(error)
    return None
