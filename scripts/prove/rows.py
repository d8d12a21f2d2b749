"""Writes the data of the proof: demonstrations, rows for RL, held-out items.

    python -m prove.rows OUT --seed 0 [--stage1 4000] [--stage2 1500] [--rl 2000]
                                 [--eval 70] [--kinds read disc] [--quote FOLDER]

Files in OUT: ``stage1.jsonl`` and ``stage2.jsonl`` (demonstrations with the tool), their
counterparts ``direct1.jsonl`` and ``direct2.jsonl`` (the same pictures and questions, answered at
once), ``rl.jsonl``, and ``eval.jsonl`` with the given number of items of each kind, which are the
same for all seeds. Every program of a demonstration was run in the sandbox, whose output it has.
No two splits share a picture. The folder in a prompt is made up for each row: a model of this size
learns one folder by heart where it always sees that, and answers nothing with another one. Programs
read the variable ``image_path``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prove.items import (
    FIRST_STAGE,
    KINDS,
    SECOND_STAGE,
    Item,
    block,
    demonstrate,
    make_item,
    scene_options,
    without_tool,
)
from prove.pictures import SIZES, draw_scene
from swift_thyme.core.protocol import IMAGE_TAG, THINK_OPEN, build_user_prompt
from swift_thyme.sandbox import InputImage, SandboxPool, render_observation
from swift_thyme.testbed.data import SYSTEM_PROMPT

__all__ = ["main", "write_rows"]

SPREAD = 1.2
"""Deviation of the demonstrated windows, in cells: about seven in ten show the whole plate."""
_SPLITS = ("stage1", "stage2", "rl", "eval")
_EVAL_SEED = 9
"""Held-out items are the same for all seeds."""
_AT_ONCE = 64
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789_-")


class _Drawn(NamedTuple):
    """One item on disk."""

    path: str
    side: int
    item: Item
    steps: list[Any]
    """Empty where no demonstration is needed."""
    end: str
    direct: str
    quoted: str
    """The path that the prompt names."""


def _folder(rng: np.random.Generator) -> str:
    """Make up the path of a folder, of one to five parts."""
    parts = [
        "".join(rng.choice(_LETTERS, size=rng.integers(1, 11))) for _ in range(rng.integers(1, 6))
    ]
    return "/" + "/".join(parts)


def _draw(job: tuple[Path, int, str, int, tuple[str, ...]]) -> _Drawn:
    """Draw one item and write its picture."""
    folder, seed, split, index, kinds = job
    rng = np.random.default_rng([seed, 100 + _SPLITS.index(split), index])
    kind = kinds[index % len(kinds)]
    size = int(rng.choice(SIZES, p=(0.3, 0.4, 0.2, 0.1)))
    scene = draw_scene(rng, size=size, **scene_options(kind))
    item = make_item(kind, scene, rng)
    data = scene.jpeg()
    # The name says nothing of the content: code can read this file's name and this package.
    name = f"{int(hashlib.sha256(data).hexdigest(), 16) % 10**10:010d}.jpg"
    path = folder / name
    path.write_bytes(data)
    steps, end = demonstrate(scene, item, rng, SPREAD)
    quoted = f"{_folder(rng)}/{name}"
    return _Drawn(str(path), size, item, steps, end, without_tool(scene, item), quoted)


def _prompt(drawn: _Drawn) -> list[dict[str, str]]:
    text = build_user_prompt(drawn.item.question, drawn.quoted, (drawn.side, drawn.side))
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]


def _demonstration_row(drawn: _Drawn, text: str, images: list[str]) -> dict[str, Any]:
    messages = [*_prompt(drawn), {"role": "assistant", "content": text}]
    return {"messages": messages, "images": [drawn.path, *images], "kind": drawn.item.kind}


def _question_row(drawn: _Drawn) -> dict[str, Any]:
    return {
        "messages": _prompt(drawn),
        "images": [drawn.path],
        "solution": drawn.item.answer,
        "question": drawn.item.question,
        "kind": drawn.item.kind,
    }


async def _shown(pool: SandboxPool, drawn: _Drawn, folder: Path) -> dict[str, Any]:
    """Run the programs of a demonstration and return its row."""
    text, images = THINK_OPEN, []
    if drawn.steps:
        image = InputImage(drawn.path, Path(drawn.path))
        async with await pool.open([image]) as session:
            for step in drawn.steps:
                result = await session.run(step.code)
                if not result.ok or result.repairs:
                    raise SystemExit(f"a demonstrated program failed: {result}\n{step.code}")
                observation = render_observation(result)
                text += block(step) + observation.text
                for returned in observation.images:
                    digest = hashlib.sha256(returned.data).hexdigest()[:20]
                    path = folder / f"{digest}.png"
                    path.write_bytes(returned.data)
                    images.append(str(path))
    text += drawn.end
    assert text.count(IMAGE_TAG) == len(images)
    return _demonstration_row(drawn, text, images)


async def _show_all(items: list[_Drawn], folder: Path) -> list[dict[str, Any]]:
    gate = asyncio.Semaphore(_AT_ONCE)
    async with SandboxPool() as pool:

        async def one(drawn: _Drawn) -> dict[str, Any]:
            async with gate:
                return await _shown(pool, drawn, folder)

        return await asyncio.gather(*map(one, items))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage1", type=int, default=4000)
    parser.add_argument("--stage2", type=int, default=1500)
    parser.add_argument("--rl", type=int, default=2000)
    parser.add_argument("--eval", type=int, default=70, help="items of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--quote",
        help="folder that all prompts name in place of made-up ones",
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    folder = args.out.resolve() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    counts = dict(
        zip(_SPLITS, (args.stage1, args.stage2, args.rl, args.eval * len(args.kinds)), strict=True)
    )
    with multiprocessing.get_context("spawn").Pool(args.workers) as workers:
        for split, count in counts.items():
            if count == 0:
                continue
            seed = _EVAL_SEED if split == "eval" else args.seed
            of_split = {"stage1": FIRST_STAGE, "stage2": SECOND_STAGE}.get(split, KINDS)
            kinds = tuple(kind for kind in of_split if kind in args.kinds)
            jobs = [(folder, seed, split, index, kinds) for index in range(count)]
            items = workers.map(_draw, jobs, chunksize=8)
            if args.quote is not None:
                items = [d._replace(quoted=f"{args.quote}/{Path(d.path).name}") for d in items]
            if split in ("rl", "eval"):
                write_rows(args.out / f"{split}.jsonl", map(_question_row, items))
                continue
            write_rows(args.out / f"{split}.jsonl", asyncio.run(_show_all(items, folder)))
            direct = [_demonstration_row(drawn, drawn.direct, []) for drawn in items]
            write_rows(args.out / f"direct{split[-1]}.jsonl", direct)


if __name__ == "__main__":
    main()
