"""What the files of a model say about tokens of pictures and about memory; nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ModelFacts", "look_at_model", "tokens_of"]

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_DEFAULT_PATCH_PX, _NEWER_PATCH_PX, _DEFAULT_MERGE = 14, 16, 2
_MOST_TOKENS = 16384
"""Of one picture, where nobody sets ``MAX_PIXELS`` (``qwen_vl_utils``)."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model; None stands for what its files do not say."""

    factor_px: int
    """Side of the square that one token stands for, in pixels."""
    default_pixels: int
    """Pixels to which a picture is shrunk where the user sets no limit."""
    parameters: int | None = None
    kv_bytes_per_token: int | None = None
    """Of the cache, in 16 bits."""
    counts_pixels: bool = True
    """Whether a picture's size alone gives its tokens, as in Qwen's families."""


def look_at_model(name: str | None) -> ModelFacts:
    """Return what a folder says; of a name on a hub only what the family says.

    Args:
        name: Folder or hub name.
    """
    folder = Path(name) if name and Path(name).is_dir() else None
    config = _read(folder / "config.json") if folder is not None else {}
    vision = config.get("vision_config") or {}
    newer = "qwen3" in str(config.get("model_type") or name).lower()
    patch, merge = vision.get("patch_size"), vision.get("spatial_merge_size")
    if not isinstance(patch, int):
        patch = _NEWER_PATCH_PX if newer else _DEFAULT_PATCH_PX
    factor = patch * (merge if isinstance(merge, int) else _DEFAULT_MERGE)
    default = _MOST_TOKENS * factor**2
    if folder is not None and config.get("thyme_template"):
        default = _own_view(folder) or default
    return ModelFacts(
        factor_px=factor,
        default_pixels=default,
        parameters=_parameters(folder, config) if folder is not None else None,
        kv_bytes_per_token=_kv_bytes(config),
        counts_pixels=name is None or "qwen" in str(config.get("model_type") or name).lower(),
    )


def tokens_of(size: tuple[int, int], facts: ModelFacts, max_pixels: int | None) -> int:
    """Return how many tokens a picture takes, as ``qwen_vl_utils.smart_resize`` makes them.

    Args:
        size: (width, height) in pixels.
        facts: The model's.
        max_pixels: The user's limit, None for none.
    """
    width, height = size
    factor, most = facts.factor_px, max_pixels or facts.default_pixels
    # As there, a limit counts in whole tokens.
    most = max(most // factor**2, 1) * factor**2
    columns, rows = max(1, round(width / factor)), max(1, round(height / factor))
    if columns * rows * factor**2 > most:
        shrink = math.sqrt(width * height / most)
        columns = max(1, math.floor(width / shrink / factor))
        rows = max(1, math.floor(height / shrink / factor))
    return columns * rows


def _own_view(folder: Path) -> int | None:
    """Return the pixels to which the testbed's template shrinks a picture."""
    processor = _read(folder / "processor_config.json").get("image_processor") or {}
    longest = (processor.get("size") or {}).get("longest_edge")
    return int(longest) if longest else None


def _parameters(folder: Path, config: Mapping[str, Any]) -> int | None:
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    dtype = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    return total // _DTYPE_BYTES.get(dtype.removeprefix("torch."), 2) if total else None


def _kv_bytes(config: Mapping[str, Any]) -> int | None:
    text = {**config, **(config.get("text_config") or {})}
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    width = text.get("hidden_size")
    if not (layers and heads and width):
        return None
    per_head = text.get("head_dim") or width // heads
    return int(2 * 2 * layers * (text.get("num_key_value_heads") or heads) * per_head)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none, which ms-swift will say better."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
