"""The folder of the model that an endpoint serves, where the endpoint is on this host.

A checkpoint says which system prompt and which response prefix it was trained with. A server hands
on neither. Without them a model meets a prompt that it has never seen and may give no answer.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import httpx

from swift_thyme.inference.model_folder import local_folder
from swift_thyme.inference.model_settings import ModelSettings

__all__ = ["model_folder"]

_TIMEOUT_S = 10.0


def model_folder(settings: ModelSettings) -> Path | None:
    """Return the folder of the model on this host; None where there is none.

    A server that cannot be asked counts as none: whoever connects to it says why.
    """
    folder = local_folder(settings.model)
    if folder is not None or not settings.endpoints or not _is_here(settings.endpoints[0]):
        return folder
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    try:
        url = f"{settings.endpoints[0].rstrip('/')}/models"
        entries = httpx.get(url, headers=headers, timeout=_TIMEOUT_S).json()["data"]
        named = [e for e in entries if settings.model in (None, e["id"])]
        # vLLM says where the model lies; its name is a path too where it was given no other.
        return next((f for e in named[:1] for f in map(local_folder, _paths(e)) if f), None)
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return None


def _paths(entry: dict[str, Any]) -> list[str]:
    return [path for path in (entry.get("root"), entry["id"]) if isinstance(path, str)]


def _is_here(url: str) -> bool:
    """Tell whether a path that the server names means a folder of this host."""
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False
