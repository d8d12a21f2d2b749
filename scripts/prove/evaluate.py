"""Runs held-out items through the project's own loop, and writes one line per trajectory.

    python scripts/prove/evaluate.py MODEL ITEMS.jsonl OUT.jsonl [--arm tools|withheld] [--temperature 0]

``withheld`` runs every block and then takes its output away: pictures are grey and printed text is
empty. A model whose answers do not depend on what its code gives loses nothing there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from swift_thyme.answers.rules import match_answer
from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.execution import ExecutionResult, InputImage, ReturnedImage
from swift_thyme.inference.engine import Engine, Sampling
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, run_trajectory
from swift_thyme.inference.model import ModelSettings, open_engine, quiet_hosts
from swift_thyme.inference.prompt_images import PromptImage
from swift_thyme.inference.task import Task
from swift_thyme.sampling.sampling_settings import SamplingSettings
from swift_thyme.sandbox import SandboxPool

MAX_TOKENS = 500
"""Sampled tokens of a trajectory; the longest demonstration has about 230."""


@cache
def _grey(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def withhold(result: ExecutionResult) -> ExecutionResult:
    """Return a result whose pictures are grey and whose text is gone; errors stay."""

    def empty(image: ReturnedImage) -> ReturnedImage:
        return replace(image, data=_grey(image.width, image.height))

    parts = tuple(empty(p) for p in result.parts if isinstance(p, ReturnedImage))
    images = tuple(empty(image) for image in result.images)
    return replace(result, stdout="", images=images, parts=parts)


class _Withholding:
    """A sandbox session whose results show nothing."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        return withhold(await self._session.run(code, timeout_s))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class WithholdingPool(SandboxPool):
    """A sandbox that runs everything and shows nothing."""

    async def open(self, images: Sequence[InputImage] = ()) -> Any:
        return _Withholding(await super().open(images))


def _task(row: dict[str, Any], index: int) -> Task:
    path = row["images"][0]
    data = Path(path).read_bytes()
    with Image.open(BytesIO(data)) as image:
        width, height = image.size
    system, user = (message["content"] for message in row["messages"])
    image = PromptImage(data, width, height, path)
    return Task(f"{index}", row["question"], user, (image,), system)


async def _one(
    engine: Engine, pool: SandboxPool, row: dict[str, Any], index: int, loop: LoopSettings
) -> dict[str, Any]:
    finished = None
    trajectory = run_trajectory(engine, _task(row, index), pool, loop, stream=False)
    async with aclosing(trajectory) as events:
        async for event in events:
            if isinstance(event, FinishedTrajectory):
                finished = event
    assert finished is not None
    answer, summary = finished.answer, finished.summary
    verdict = Verdict.WRONG
    if answer is not None:
        verdict = match_answer(answer, row["solution"], row["question"])
    return {
        "index": index,
        "kind": row["kind"],
        "right": verdict is Verdict.RIGHT,
        "answer": answer,
        "solution": row["solution"],
        "tool_used": summary.tool_used,
        "statuses": list(summary.statuses),
        "turns": summary.turns,
        "tokens": summary.sampled_tokens,
        "end": summary.end_reason.value if summary.end_reason else None,
        "text": finished.completion,
    }


async def _all(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in args.items.read_text().splitlines()]
    rows = rows[: args.limit]
    settings = ModelSettings(
        model=str(args.model),
        engine=args.engine,
        template="thyme_tiny",
        dtype="float32",
        max_model_len=1536,
        concurrency=args.concurrency,
        gpu_memory_utilization=args.memory,
        sampling=SamplingSettings(adaptive=True),
        engine_kwargs=json.loads(args.engine_kwargs),
    )
    loop = LoopSettings(
        sampling=Sampling(temperature=args.temperature, seed=args.seed), max_tokens=MAX_TOKENS
    )
    gate = asyncio.Semaphore(args.concurrency)
    kind = WithholdingPool if args.arm == "withheld" else SandboxPool
    async with open_engine(settings) as engine, kind() as pool:

        async def one(index: int) -> dict[str, Any]:
            async with gate:
                return await _one(engine, pool, rows[index], index, loop)

        return await asyncio.gather(*map(one, range(len(rows))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arm", choices=("tools", "withheld"), default="tools")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--engine-kwargs", default="{}", help="further arguments of vLLM, as JSON")
    parser.add_argument("--memory", type=float, default=0.1, help="vLLM's share of a GPU")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()
    started = time.monotonic()
    quiet_hosts()
    results = asyncio.run(_all(args))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(result) + "\n" for result in results))
    right = sum(result["right"] for result in results) / len(results)
    used = sum(result["tool_used"] for result in results) / len(results)
    print(
        f"{args.out.name}: right {right:.3f}, tool used {used:.3f}, n {len(results)}, "
        f"{time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
