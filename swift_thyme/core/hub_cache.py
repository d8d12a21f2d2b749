"""Models that a client of a hub has fetched before; no hub is asked."""

from __future__ import annotations

import importlib
from typing import Literal

__all__ = ["Client", "cached_model"]

Client = Literal["huggingface_hub", "modelscope"]


def cached_model(name: str, client: Client) -> str | None:
    """Return the folder of a model in a client's cache.

    Args:
        name: Name at the hub.
        client: The package whose cache and variables count.

    Returns:
        The folder; None where the client is not installed or holds no such model.
    """
    try:
        package = importlib.import_module(client)
        return str(package.snapshot_download(name, local_files_only=True))
    except Exception:  # noqa: BLE001 - the clients of two hubs share no base class
        return None
