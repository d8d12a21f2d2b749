#!/usr/bin/env python
"""How much faster many trajectories at once are than one at a time, on the embedded tiny model.

Both ways run the same trajectories (two turns, one code block in the real sandbox, one returned
image) through the same engine, in turns: so many at once, then one after the other, and so on; the
best of each counts. With --check the exit status is 1 when 32 at once are less than 3 times as fast
as one at a time, or an answer differs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from swift_thyme.inference import (
    FinishedTrajectory,
    ModelSettings,
    Task,
    make_task,
    open_engine,
    read_image,
    run_trajectory,
)
from swift_thyme.inference.model import quiet_hosts, system_prompt
from swift_thyme.sampling.sampling_settings import SamplingSettings
from swift_thyme.sandbox import SandboxBackend, open_pool
from swift_thyme.testbed import MODEL_DIR
from swift_thyme.testbed.data import QUESTION
from swift_thyme.testbed.tsv import _picture

LIMIT = 3.0


def make_tasks(n: int, settings: ModelSettings) -> list[Task]:
    tasks = []
    for index in range(n):
        picture, _ = _picture(0, index)
        buffer = io.BytesIO()
        picture.image().save(buffer, format="JPEG", quality=95)
        image = read_image(buffer.getvalue())
        tasks.append(
            make_task(QUESTION, [image], system=system_prompt(settings), task_id=str(index))
        )
    return tasks


async def one(engine: Any, pool: SandboxBackend, task: Task) -> FinishedTrajectory:
    async for event in run_trajectory(engine, task, pool, stream=False):
        last = event
    assert isinstance(last, FinishedTrajectory)
    return last


async def timed(engine: Any, pool: SandboxBackend, tasks: list[Task], at_once: int) -> Any:
    waiting = iter(tasks)
    answers: dict[str, str | None] = {}

    async def work() -> None:
        for task in waiting:
            finished = await one(engine, pool, task)
            assert finished.summary.tool_used
            answers[task.id] = finished.answer

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - started, answers


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    settings = ModelSettings(
        model=str(MODEL_DIR),
        engine=options.engine,
        max_model_len=1024,
        concurrency=options.concurrency,
        # As in `thyme eval` at temperature 0, where code is greedy anyway.
        sampling=SamplingSettings(),
    )
    many = make_tasks(options.concurrency * options.rounds, settings)
    few = many[: options.serial]
    async with open_pool() as pool, open_engine(settings) as engine:
        warm, _ = await timed(engine, pool, many[: options.concurrency], options.concurrency)
        at_once_s, serial_s, differ = [], [], 0
        for _ in range(options.repeats):
            wall_s, answers = await timed(engine, pool, many, options.concurrency)
            at_once_s.append(wall_s / len(many))
            wall_s, alone = await timed(engine, pool, few, 1)
            serial_s.append(wall_s / len(few))
            differ += sum(answers[name] != answer for name, answer in alone.items())
    return {
        "engine": options.engine,
        "concurrency": options.concurrency,
        "trajectories": len(many),
        "serial_s": min(serial_s),
        "at_once_s": min(at_once_s),
        "ratio": min(serial_s) / min(at_once_s),
        "answers_that_differ": differ,
        "warm_up_s": warm,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="trajectories per place")
    parser.add_argument("--serial", type=int, default=12, help="trajectories one at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    parser.add_argument("--check", action="store_true", help="exit with 1 below 3 times")
    options = parser.parse_args()
    quiet_hosts()
    result = asyncio.run(measure(options))
    print("| engine | at once | one at a time, s each | at once, s each | ratio | differ |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {result['engine']} | {result['concurrency']} | {result['serial_s']:.3f} "
        f"| {result['at_once_s']:.3f} | {result['ratio']:.1f} | {result['answers_that_differ']} |"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    passed = result["ratio"] >= LIMIT and not result["answers_that_differ"]
    return 1 if options.check and not passed else 0


if __name__ == "__main__":
    sys.exit(main())
