"""The folder in which commands of a page run: a checkout as a reader has it, with small data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from swift_thyme.testbed.data import make_dataset
from swift_thyme.testbed.tsv import make_tsvs
from tests.conftest import ROOT
from tests.docs.blocks import Block, Treatment

__all__ = ["make_folder"]

_CHECKOUT = ("docs", "plugin", "scripts", "swift_thyme", "tests", "pyproject.toml")


def make_folder(folder: Path, blocks: Sequence[Block]) -> Path:
    """Fill a folder with what the blocks of a page name, and return it.

    Args:
        folder: An empty one.
        blocks: Of one page.
    """
    for name in _CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    text = "\n".join(block.text for block in blocks)
    if "rl.jsonl" in text or "sft.jsonl" in text or "picture.jpg" in text:
        make_dataset(folder / "rows", n_sft=8, n_rl=8, n_eval=4, seed=3)
        for file in ("rl.jsonl", "sft.jsonl"):
            shutil.copy(folder / "rows" / file, folder / file)
        picture = next((folder / "rows").rglob("*.jpg"))
        shutil.copy(picture, folder / "picture.jpg")
    if "vstar.tsv" in text:
        shutil.copy(make_tsvs(folder / "tsv", 8, 0).vstar, folder / "vstar.tsv")
    if "Thyme-SFT" in text:
        from faulty_data import make_published  # of scripts/

        make_published(folder / "Thyme-SFT", 12)
    for block in blocks:
        if block.treatment is Treatment.FILE:
            path = folder / block.word
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text + "\n", encoding="utf-8")
    return folder
