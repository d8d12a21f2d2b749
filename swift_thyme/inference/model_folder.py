"""A model's folder: what it says about itself, and what is wrong with it.

Only small files and the headers of weights are read, so that a wrong folder is told in a moment.
Nothing is loaded here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import SettingsError

__all__ = ["check_folder", "local_folder", "read_config", "read_saved_arguments", "weights_mark"]

_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MOST_HEADER_BYTES = 100 << 20
"""What safetensors itself allows."""
_LFS = b"version https://git-lfs"


def local_folder(model: str | None) -> Path | None:
    """Return the folder that ``--model`` names, or None where it names none."""
    if model is None:
        return None
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def read_config(folder: Path | None) -> dict[str, Any]:
    """Return what ``config.json`` says; empty without one.

    Raises:
        SettingsError: It cannot be read.
    """
    return _read_json(folder / "config.json") if folder is not None else {}


def read_saved_arguments(folder: Path | None) -> dict[str, Any]:
    """Return what ms-swift's ``args.json`` says about the training; empty without one.

    Raises:
        SettingsError: It cannot be read.
    """
    return _read_json(folder / "args.json") if folder is not None else {}


def weights_mark(model: str | None) -> str | None:
    """Return what tells one state of a local checkpoint from another; None for a name."""
    folder = local_folder(model)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".json", ".jinja") and path.is_file():
            digest.update(f"{path.name}:{path.stat().st_size}:".encode())
            with open(path, "rb") as file:
                # Weights are large; their first megabyte, names and sizes differ between states.
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def check_folder(model: str, *, weights: bool = True) -> None:
    """Make sure that a local model is there and whole; a name of a hub passes.

    Args:
        model: The value of ``--model``.
        weights: Whether weights must be there.

    Raises:
        SettingsError: It cannot be used; one line says why and what to do.
    """
    folder = local_folder(model)
    if folder is None:
        path = Path(model).expanduser()
        if path.exists():
            raise SettingsError(f"--model {model}: is a file; name the folder of the model")
        if model.startswith(("/", ".", "~")) or model.count("/") > 1:
            raise SettingsError(f"--model {model}: no such folder")
        return
    try:
        _check(folder, weights)
    except SettingsError as error:
        raise SettingsError(f"--model {model}: {error}") from error
    except OSError as error:
        raise SettingsError(f"--model {model} cannot be read: {error}") from error


def _check(folder: Path, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise SettingsError(_no_model(folder))
    config = read_config(folder)
    if not config:
        raise SettingsError("config.json holds no settings; copy it anew")
    if weights:
        for path in _weights(folder):
            _check_weights(path)


def _no_model(folder: Path) -> str:
    """Say what a folder without ``config.json`` is, if that can be told."""
    if (folder / "adapter_config.json").is_file():
        return (
            "holds a LoRA adapter, not a model; merge it with "
            f"'swift export --adapters {folder} --merge_lora true' and name the folder it writes"
        )
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    hint = f"; the folder {inner[-1]} in it is one" if inner else ""
    return f"is no model: it has no file config.json{hint}"


def _weights(folder: Path) -> Iterator[Path]:
    """Yield the files with weights.

    Raises:
        SettingsError: One is missing, or there is none.
    """
    for name in _INDEX:
        if (folder / name).is_file():
            table = _read_json(folder / name).get("weight_map")
            if not isinstance(table, dict) or not table:
                raise SettingsError(f"{name} names no weights; copy it anew")
            names = sorted(set(map(str, table.values())))
            missing = [part for part in names if not (folder / part).is_file()]
            if missing:
                raise SettingsError(
                    f"{len(missing)} of {len(names)} files with weights are missing, such as "
                    f"{missing[0]}; copy or download them"
                )
            yield from (folder / part for part in names)
            return
    found = sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin")))
    if not found:
        raise SettingsError("has no weights (*.safetensors); copy or download them")
    yield from found


def _check_weights(path: Path) -> None:
    """Compare the size of a file with what its header says.

    Raises:
        SettingsError: It is cut off or holds something else.
    """
    if not path.is_file():
        raise SettingsError(f"{path.name} is no file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(len(_LFS))
        if start == _LFS:
            raise SettingsError(f"{path.name} is a Git LFS pointer; fetch the file: git lfs pull")
        if path.suffix != ".safetensors":
            if not size:
                raise SettingsError(f"{path.name} is empty; copy or download it again")
            return
        file.seek(8)
        length = int.from_bytes(start[:8], "little")
        header = file.read(length) if len(start) >= 8 and length <= _MOST_HEADER_BYTES else b""
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name[:2] != "__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"{path.name} is cut off or no safetensors file ({size} bytes); copy or download it "
            "again"
        ) from error
    if size != whole:
        raise SettingsError(
            f"{path.name} has {size} bytes, its header says {whole}; copy or download it again"
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise SettingsError(f"{path} holds no JSON object")
    return value
