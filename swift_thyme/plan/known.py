"""Which model is meant: a folder, a name in a cache of this machine, or a size in words.

No hub is asked. The shapes under a size are those of a released model, and the plan names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.hub_cache import Client, cached_model
from swift_thyme.plan.sizes import ModelSizes, sizes_of

__all__ = ["KNOWN", "find_sizes"]

_QWEN2_5_VISION = {
    **{"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "hidden_act": "silu"},
    **{"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
}
_QWEN3_VISION = {
    **{"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16},
    **{"spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [8, 16, 24]},
}
_SMALL_QWEN3_VISION = {
    **{**_QWEN3_VISION, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096},
    "deepstack_visual_indexes": [5, 11, 17],
}


def _shape(
    vision: dict[str, Any],
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    groups: int,
    **more: Any,
) -> dict[str, Any]:
    text = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    text |= {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": 128}
    text |= {"vocab_size": more.pop("vocab_size", 151936)}
    tied = more.pop("tied", False)
    return {
        "text_config": {**text, **more},
        "vision_config": vision,
        "tie_word_embeddings": tied,
    }


_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8}
KNOWN = {
    "2B": ("Qwen3-VL-2B", _shape(_SMALL_QWEN3_VISION, 2048, 6144, 28, 16, 8, tied=True)),
    "3B": ("Qwen2.5-VL-3B", _shape(_QWEN2_5_VISION, 2048, 11008, 36, 16, 2, tied=True)),
    "4B": ("Qwen3-VL-4B", _shape(_SMALL_QWEN3_VISION, 2560, 9728, 36, 32, 8, tied=True)),
    "7B": (
        "Qwen2.5-VL-7B",
        _shape(_QWEN2_5_VISION, 3584, 18944, 28, 28, 4, vocab_size=152064),
    ),
    "8B": ("Qwen3-VL-8B", _shape(_QWEN3_VISION, 4096, 12288, 36, 32, 8)),
    "32B": ("Qwen3-VL-32B", _shape(_QWEN3_VISION, 5120, 25600, 64, 64, 8)),
    "72B": (
        "Qwen2.5-VL-72B",
        _shape(_QWEN2_5_VISION, 8192, 29568, 80, 64, 8, vocab_size=152064),
    ),
    "30B-A3B": (
        "Qwen3-VL-30B-A3B",
        _shape(_QWEN3_VISION, 2048, 6144, 48, 32, 4, moe_intermediate_size=768, **_EXPERTS),
    ),
}
"""A released model and its shapes, by the size that names have."""
_SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?B(?:-A\d+(?:\.\d+)?B)?)(?![A-Za-z0-9])", re.IGNORECASE)


def find_sizes(model: str) -> ModelSizes:
    """Return the sizes of a model.

    Args:
        model: A folder with ``config.json``, a name whose files a cache of this machine holds, or
            a name or word with a size of :data:`KNOWN`.

    Raises:
        SettingsError: None of these; one line that says what would do.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _counted(model, folder)
    for place in _cached(model):
        return _counted(model, place)
    found = _SIZE.search(model)
    known = KNOWN.get(found[1].upper()) if found else None
    sizes = sizes_of(known[0], known[1]) if known else None
    if sizes is None:
        raise SettingsError(
            f"--model {model}: no folder, not in a cache of this machine, and no size among "
            f"{', '.join(KNOWN)} in its name; download its config.json into a folder and name that"
        )
    return sizes


def _counted(model: str, folder: Path) -> ModelSizes:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"--model {model}: the folder has no config.json") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model {model}: {path} cannot be read: {error}") from error
    sizes = sizes_of(model, config) if isinstance(config, dict) else None
    if sizes is None:
        raise SettingsError(
            f"--model {model}: config.json does not say its layers, widths, heads and vocabulary; "
            "name a size instead, such as --model 7B"
        )
    return sizes


def _cached(model: str) -> Iterator[Path]:
    """Yield folders of caches that hold a model's configuration."""
    if model.count("/") != 1:
        return
    clients: tuple[Client, ...] = ("huggingface_hub", "modelscope")
    for client in clients:
        folder = cached_model(model, client)
        if folder is not None and Path(folder, "config.json").is_file():
            yield Path(folder)
