"""Runs held-out items through the project's own loop, and writes one line per trajectory.

    python -m prove.evaluate MODEL ITEMS.jsonl OUT.jsonl [--passes tools:0 withheld:0]

A pass is a way to run, a temperature, and where it is not all of them a share of the likeliest
tokens that are sampled from (``tools:1:0.9``). ``withheld`` runs every block and then takes its
output away: pictures are grey and printed text is empty. A model whose answers do not depend on
what its code gives loses nothing there.
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
TEXTS = 70
"""Trajectories of a pass that are kept with their text."""


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


class _WithholdingPool:
    """A sandbox that runs everything and shows nothing."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool

    async def open(self, images: Sequence[InputImage] = ()) -> Any:
        return _Withholding(await self._pool.open(images))


def _task(row: dict[str, Any], index: int) -> Task:
    path = row["images"][0]
    data = Path(path).read_bytes()
    with Image.open(BytesIO(data)) as image:
        width, height = image.size
    system, user = (message["content"] for message in row["messages"])
    image = PromptImage(data, width, height, path)
    return Task(f"{index}", row["question"], user, (image,), system)


async def _one(
    engine: Engine, pool: Any, row: dict[str, Any], place: tuple[int, int], loop: LoopSettings
) -> dict[str, Any]:
    """Run a sample of an item; ``place`` is the number of the item and that of the sample."""
    index, sample = place
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
        "sample": sample,
        "kind": row["kind"],
        "right": verdict is Verdict.RIGHT,
        "answer": answer,
        "solution": row["solution"],
        "tool_used": summary.tool_used,
        "statuses": list(summary.statuses),
        "turns": summary.turns,
        "tokens": summary.sampled_tokens,
        "end": summary.end_reason.value if summary.end_reason else None,
        "text": finished.completion if index < TEXTS and sample == 0 else None,
    }


async def _all(args: argparse.Namespace) -> None:
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
    gate = asyncio.Semaphore(args.concurrency)
    results: list[dict[str, Any]] = []
    async with open_engine(settings) as engine, SandboxPool() as pool:
        for name in args.passes:
            started = time.monotonic()
            arm, temperature, top_p, *_ = *name.split(":"), "1"
            shown = _WithholdingPool(pool) if arm == "withheld" else pool
            samples = args.samples if float(temperature) else 1
            base = Sampling(temperature=float(temperature), top_p=float(top_p))

            async def one(
                place: tuple[int, int],
                shown: Any = shown,
                base: Sampling = base,
                samples: int = samples,
            ) -> dict[str, Any]:
                index, sample = place
                # Of its own for each trajectory: with one seed all of them draw the same numbers.
                seed = (args.seed * samples + sample) * len(rows) + index
                sampling = replace(base, seed=seed)
                loop = LoopSettings(sampling=sampling, max_tokens=MAX_TOKENS)
                async with gate:
                    return await _one(engine, shown, rows[index], place, loop)

            places = [(index, sample) for sample in range(samples) for index in range(len(rows))]
            found = await asyncio.gather(*map(one, places))
            results += [{"pass": name, **result} for result in found]
            right, used = (
                sum(result[key] for result in found) / len(found) for key in ("right", "tool_used")
            )
            print(
                f"{args.out.name} {name}: right {right:.3f}, tool used {used:.3f}, "
                f"n {len(found)}, {time.monotonic() - started:.0f} s",
                file=sys.stderr,
            )
            # A call that is cut off keeps the passes that are done.
            args.out.write_text("".join(json.dumps(result) + "\n" for result in results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passes", nargs="+", default=["tools:0"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--engine-kwargs", default="{}", help="further arguments of vLLM, as JSON")
    parser.add_argument("--memory", type=float, default=0.1, help="vLLM's share of a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--samples", type=int, default=1, help="trajectories per item above temperature 0"
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--concurrency", type=int, default=64)
    args = parser.parse_args()
    quiet_hosts()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(_all(args))


if __name__ == "__main__":
    main()
