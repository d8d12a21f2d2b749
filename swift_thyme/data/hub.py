"""Data sets by name: a hub's client fetches their files into its cache, where they are read.

Files, not a loaded data set: a job cuts files into shards and goes on by them after a kill. The
name says which hub, as in ms-swift's ``--dataset hf::NAME``. What is in the cache stays there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import httpx

from swift_thyme.core.errors import DataError, SettingsError

__all__ = ["fetch_dataset"]

_NAME = re.compile(
    r"(?P<hub>hf|ms)::(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>\w[\w./-]*))?"
)
_WANTED = (
    *("*.parquet", "*.jsonl", "*.tsv"),
    *("*.arrow", "*dataset_dict.json", "*dataset_info.json", "*state.json"),
    *("*.jpg", "*.jpeg", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff"),
)
"""What a job reads: rows, folders of ``save_to_disk``, and pictures that rows name by path."""
_PROBE_S = 10.0
_SAID_CHARS = 240


def fetch_dataset(name: str) -> str:
    """Return the folder that holds the files of a data set; downloads what the cache lacks.

    Args:
        name: ``hf::NAME`` (Hugging Face) or ``ms::NAME`` (ModelScope); ``@REVISION`` may follow.

    Raises:
        SettingsError: It is no such name, or the hub's client is not installed.
        DataError: The hub cannot be reached or has no such data set, and the cache does not hold
            it; one line says why.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise SettingsError(
            f"--hub {name}: write hf::NAME (Hugging Face) or ms::NAME (ModelScope), such as "
            "hf::OWNER/DATA or hf::OWNER/DATA@REVISION"
        )
    fetch = _CLIENTS[match["hub"]]
    try:
        return fetch(match["name"], match["revision"])
    except ImportError as error:
        raise SettingsError(
            f"--hub {name}: needs the package {error.name}: pip install {error.name}"
        ) from error
    except Exception as error:
        # The clients of the two hubs share no base class.
        said = " ".join(str(error).split())
        said = said if len(said) <= _SAID_CHARS else f"{said[:_SAID_CHARS]}..."
        raise DataError(
            f"--hub {name}: cannot be fetched ({type(error).__name__}: {said}); check the name and "
            "the network, or give a folder that holds its files"
        ) from error


def _from_hugging_face(name: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    # Its client takes what is in its cache where there is no network.
    return str(
        snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=list(_WANTED)
        )
    )


def _from_modelscope(name: str, revision: str | None) -> str:
    from modelscope.hub.snapshot_download import dataset_snapshot_download
    from modelscope.hub.utils.utils import get_endpoint

    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    # Without a network its client tries for half a minute.
    try:
        httpx.head(get_endpoint(), timeout=_PROBE_S)
    except httpx.TransportError as error:
        # Its client has a store of certificates of its own.
        if "CERTIFICATE" not in str(error):
            raise
    return str(dataset_snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))


_CLIENTS: dict[str, Callable[[str, str | None], str]] = {
    "hf": _from_hugging_face,
    "ms": _from_modelscope,
}
