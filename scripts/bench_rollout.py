#!/usr/bin/env python
"""What waiting costs a rollout: one engine, one scripted long-tailed policy, several drivers.

usage: python scripts/bench_rollout.py [--trajectories 64] [--tails long,none] [--check]

* "published": turns in lock step; each block is sampled by stopping at <code> and asking again at
  temperature 0, programs run one after the other, and pictures are prepared for each request.
* "turns": ms-swift's loop; programs of a turn run side by side (THYME_ROLLOUT=turns).
* "continuous": each trajectory goes on when its code is done (THYME_ROLLOUT=continuous).
* "at_once": the same, and a ready turn does not wait for others (as without a GPU).
* "bound": the same numbers of tokens, each trajectory in one turn without code. No driver can be
  faster than its longest trajectory.

The engine, the scheduler, the template and the sandbox are those of a job in colocate mode; only
the policy is a script. With a long tail the thoughts have lognormal lengths; without one, all are
equally long. A pass runs all drivers in turn; ratios are taken within a pass. With --check the exit
status is 1 where a goal is missed.

On processors alone, the time of an engine step grows with its requests and is taken from programs
and encoding. A GPU needs about the same time for few and for many, and leaves the processors alone.
--step-ms lets each step take at least so long, asleep for the rest, as a trainer's thread is behind
a GPU. --prompt-ms lets a step that takes in new prompts last so much longer, whatever their number:
on a GPU it runs without CUDA graphs, and with the vision tower. --picture gives the prompt a
picture of the size of a photo. On a GPU, --graphs captures decoding, and nothing else, as CUDA
graphs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "swift_thyme" / "testbed" / "model"
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
POLICY = "rollout_policy:Policy"
HOOK = "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor"
DRIVERS = ("published", "turns", "at_once", "continuous", "bound")
MEDIAN_THOUGHT = 50
"""Tokens of a thought, half of them shorter."""
SIGMA = 1.1
"""Of the logarithm of their lengths."""
LONGEST_THOUGHT = 800
MAX_MODEL_LEN = 4096
PICTURES_BYTES = 1 << 30
MAX_PIXELS = "200704"
"""Of a picture that the model sees; 256 tokens."""
GOALS = {
    "long": {"published": 2.5, "turns": 1.5, "bound": 1 / 1.1},
    "none": {"turns": 1.0},
}
"""Least seconds of a driver over those of "continuous"."""
NOISE = 0.02
"""What a ratio may be below its goal."""


@dataclass(frozen=True)
class Run:
    """One pass of a driver over all trajectories."""

    driver: str
    tail: str
    seconds: float
    steps: int
    """Forward passes of the engine."""
    steps_with_prompts: int
    """Those of them that took in new prompts."""
    tokens: int
    """Sampled tokens."""
    longest: int
    """Sampled tokens of the longest trajectory."""


def thoughts(tail: str, trajectories: int, seed: int) -> list[list[int]]:
    """Return the tokens of the thoughts of each trajectory, one turn each."""
    rng = random.Random(seed)
    plans = []
    for _ in range(trajectories):
        turns = rng.choice((2, 3, 4)) if tail == "long" else 3
        if tail == "none":
            plans.append([100] * turns)
            continue
        drawn = (rng.lognormvariate(math.log(MEDIAN_THOUGHT), SIGMA) for _ in range(turns))
        plans.append([min(max(round(length), 4), LONGEST_THOUGHT) for length in drawn])
    return plans


class Bench:
    """An engine with a scripted policy, and a scheduler as a job has it."""

    def __init__(
        self,
        trajectories: int,
        model: Path,
        dtype: str,
        step_s: float = 0.0,
        *,
        prompt_s: float = 0.0,
        graphs: bool = False,
    ) -> None:
        import torch
        from swift.infer_engine import GRPOVllmEngine, RequestConfig

        from swift_thyme.host import tiny_template
        from swift_thyme.host.cpu_vllm import free_share
        from swift_thyme.host.picture_cache import install_picture_cache
        from swift_thyme.host.template_images import (
            install_image_accounting,
            install_upright_images,
        )
        from swift_thyme.sampling.sampling_settings import SamplingSettings

        install_image_accounting()
        install_upright_images()
        install_picture_cache()
        tiny_template.add_template()
        sizes = [2**power for power in range(trajectories.bit_length())]
        # Without torch.compile the engine starts a minute earlier.
        captured = {
            "mode": 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": sizes,
        }
        self.engine = GRPOVllmEngine(
            str(model),
            model_type="qwen2_5_vl",
            template_type="thyme_tiny" if model == MODEL else "qwen2_5_vl",
            torch_dtype=getattr(torch, dtype),
            max_model_len=MAX_MODEL_LEN,
            enforce_eager=not graphs,
            max_num_seqs=trajectories,
            gpu_memory_utilization=free_share(0.9),
            limit_mm_per_prompt={"image": 6, "video": 0},
            enable_prefix_caching=True,
            seed=0,
            logprobs_mode="processed_logprobs",
            engine_kwargs={
                "logits_processors": [POLICY, HOOK],
                "additional_config": {"thyme": SamplingSettings(adaptive=True).as_config()},
                **({"compilation_config": captured} if graphs else {}),
            },
        )
        self.config = RequestConfig(
            max_tokens=MAX_MODEL_LEN,
            temperature=1.0,
            stop=["</code>", "</answer>"],
            return_details=True,
            logprobs=True,
        )
        self.n_steps = 0
        self.n_steps_with_prompts = 0
        self.is_like_a_gpu = prompt_s > 0
        has_prompts = False
        step, add = self.engine.engine.step, self.engine.engine.add_request

        def noted_add(*args: Any, **kwargs: Any) -> Any:
            nonlocal has_prompts
            has_prompts = True
            return add(*args, **kwargs)

        def counted_step() -> Any:
            nonlocal has_prompts
            self.n_steps += 1
            self.n_steps_with_prompts += has_prompts
            end = time.perf_counter() + step_s + prompt_s * has_prompts
            has_prompts = False
            outputs = step()
            time.sleep(max(0.0, end - time.perf_counter()))
            return outputs

        self.engine.engine.step = counted_step
        self.engine.engine.add_request = noted_add

    def scheduler(self) -> Any:
        from swift_thyme.host.scheduler import O3Scheduler

        template = self.engine.template
        return O3Scheduler(None, 8, tokenizer=template.tokenizer, template=template)

    def run(self, driver: str, tail: str, requests: list[Any]) -> Run:
        from swift_thyme.host.picture_cache import shared_pictures

        scheduler = self.scheduler()
        # Pictures and prompts of earlier passes must not help.
        shared_pictures().clear()
        shared_pictures()._most_bytes = 0 if driver == "published" else PICTURES_BYTES
        self.engine.engine.reset_mm_cache()
        self.engine.engine.reset_prefix_cache()
        self.n_steps = self.n_steps_with_prompts = 0
        started = time.perf_counter()
        outputs = DRIVE[driver](self, scheduler, requests)
        seconds = time.perf_counter() - started
        lengths = [sum(map(sum, output.response_loss_mask)) for output in outputs]
        ends = {output.rollout_infos["thyme_end_reason"] for output in outputs}
        assert ends == {"answer"}, ends
        steps = (self.n_steps, self.n_steps_with_prompts)
        return Run(driver, tail, seconds, *steps, sum(lengths), max(lengths))


def _continuous(bench: Bench, scheduler: Any, requests: list[Any]) -> list[Any]:
    from swift_thyme.host.continuous_rollout import roll_out
    from swift_thyme.host.engine_feed import RUNNING_PER_STEP

    waits = RUNNING_PER_STEP if bench.is_like_a_gpu else None
    return roll_out(scheduler, bench.engine, requests, bench.config, running_per_step=waits)


def _at_once(bench: Bench, scheduler: Any, requests: list[Any]) -> list[Any]:
    from swift_thyme.host.continuous_rollout import roll_out

    return roll_out(scheduler, bench.engine, requests, bench.config, running_per_step=0)


def _turns(bench: Bench, scheduler: Any, requests: list[Any]) -> list[Any]:
    return _by_turns(scheduler, requests, lambda some: _infer(bench, some, bench.config))


def _published(bench: Bench, scheduler: Any, requests: list[Any]) -> list[Any]:
    one_at_a_time = asyncio.Lock()
    on_turn_end = scheduler.on_turn_end

    async def one_by_one(*args: Any) -> Any:
        async with one_at_a_time:
            return await on_turn_end(*args)

    scheduler.on_turn_end = one_by_one
    return _by_turns(scheduler, requests, lambda some: _stop_and_ask_again(bench, some))


def _by_turns(scheduler: Any, requests: list[Any], sample: Any) -> list[Any]:
    from swift.rollout import invoke_async_hook, run_multi_turn

    invoke_async_hook(scheduler.on_trajectory_start(requests))
    first = sample(requests)
    found: list[Any] = run_multi_turn(
        requests, first, scheduler, lambda some, _: sample(some), None, 8
    )
    return found


def _infer(bench: Bench, some: list[Any], config: Any) -> list[Any]:
    outputs: list[Any] = bench.engine.infer(some, config, use_tqdm=False)
    return outputs


def _stop_and_ask_again(bench: Bench, some: list[Any]) -> list[Any]:
    """Sample a turn in two requests: the text, then the code at temperature 0."""
    first = _infer(bench, some, replace(bench.config, stop=["<code>", "</answer>"]))
    tokenizer = bench.engine.template.tokenizer
    again, wanted = [], []
    for request, output in zip(some, first, strict=True):
        choice = output.response.choices[0]
        if not tokenizer.decode(choice.token_ids[-8:]).endswith("<code>"):
            continue
        messages = [dict(message) for message in request.messages]
        if messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": []})
        messages[-1]["content"] = [*messages[-1]["content"], *choice.token_ids]
        again.append(replace(request, messages=messages))
        wanted.append(choice)
    config = replace(bench.config, temperature=0.0)
    for choice, output in zip(wanted, _infer(bench, again, config), strict=True):
        rest = output.response.choices[0]
        choice.token_ids = [*choice.token_ids, *rest.token_ids]
        choice.message.content += rest.message.content
        choice.logprobs["content"] += rest.logprobs["content"]
        choice.finish_reason = rest.finish_reason
    return first


DRIVE = {
    "published": _published,
    "turns": _turns,
    "at_once": _at_once,
    "continuous": _continuous,
    "bound": _continuous,
}


def make_requests(
    row: dict, plans: Sequence[Sequence[int]], driver: str, picture: str
) -> list[Any]:
    """Return a request for each trajectory; its question is the plan that the policy follows."""
    import rollout_policy
    from swift.infer_engine.protocol import RolloutInferRequest

    found = []
    for number, plan in enumerate(plans):
        asked = rollout_policy.question([plan], number, at_once=driver == "bound")
        messages = [dict(message) for message in row["messages"]]
        messages[-1]["content"] = messages[-1]["content"].replace(row["question"], asked)
        found.append(
            RolloutInferRequest(
                messages=messages, images=[picture], data_dict={}, uuid=f"{driver} {number}"
            )
        )
    return found


def make_row(folder: Path, size: str) -> tuple[dict, str]:
    """Return a row of the testbed, and a picture as ms-swift hands it over.

    Args:
        folder: Where the row's own picture is written.
        size: Width and height of a picture of noise; empty for the row's own.
    """
    from PIL import Image

    from swift_thyme.testbed.data import make_dataset

    make_dataset(folder, n_sft=0, n_rl=1, n_eval=0, seed=5)
    row = json.loads((folder / "rl.jsonl").read_text())
    path = Path(row["images"][0])
    if size:
        width, height = map(int, size.split("x"))
        Image.effect_noise((width, height), 40).convert("RGB").save(path, quality=90)
    return row, base64.b64encode(path.read_bytes()).decode()


def summary(passes: list[dict[str, Run]]) -> dict[str, dict[str, float]]:
    """Return medians over the passes; ratios are taken within a pass."""
    found = {}
    for driver in passes[0]:
        own = [runs[driver] for runs in passes]
        ratios = [runs[driver].seconds / runs["continuous"].seconds for runs in passes]
        found[driver] = {
            "seconds": statistics.median(run.seconds for run in own),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "steps": statistics.median(run.steps for run in own),
            "prompts": statistics.median(run.steps_with_prompts for run in own),
            "tokens": own[0].tokens,
            "longest": own[0].longest,
        }
    return found


def table(tail: str, results: dict[str, dict[str, float]]) -> str:
    lines = [
        f"{'a long tail' if tail == 'long' else 'no tail'}: longest trajectory "
        f"{results['continuous']['longest']:.0f} tokens, all {results['continuous']['tokens']:.0f}",
        "",
        "| driver | seconds | against continuous | range | engine steps | with new prompts |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {driver} | {r['seconds']:.2f} | {r['ratio']:.2f} "
        f"| {r['ratio_low']:.2f} to {r['ratio_high']:.2f} | {r['steps']:.0f} | {r['prompts']:.0f} |"
        for driver, r in results.items()
    ]
    return "\n".join([*lines, ""])


def missed(tail: str, results: dict[str, dict[str, float]]) -> list[str]:
    """Return the goals that a result misses."""
    return [
        f"{tail} tail: {driver} takes {results[driver]['ratio']:.2f} of continuous, goal {goal:.2f}"
        for driver, goal in GOALS[tail].items()
        if driver in results and results[driver]["ratio"] < goal - NOISE
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=64, help="at a time")
    parser.add_argument("--repeats", type=int, default=3, help="passes over all drivers")

    parser.add_argument("--tails", default="long,none", help="long, none or both")
    parser.add_argument("--picture", default="", metavar="WxH", help="size; default: the testbed's")
    parser.add_argument("--step-ms", type=float, default=0.0, help="least time of an engine step")
    parser.add_argument("--prompt-ms", type=float, default=0.0, help="more where prompts are new")
    parser.add_argument("--graphs", action="store_true", help="decode with CUDA graphs")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--drivers", default=",".join(DRIVERS), help='of these; "continuous" too')
    options = parser.parse_args()
    asked = {*options.drivers.split(","), "continuous"}
    drivers = [driver for driver in DRIVERS if driver in asked]
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "trajectories": options.trajectories,
        "picture": options.picture,
        "step_ms": options.step_ms,
        "prompt_ms": options.prompt_ms,
    }
    if options.picture:
        os.environ.setdefault("MAX_PIXELS", MAX_PIXELS)
    broken: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        row, picture = make_row(Path(folder), options.picture)
        bench = Bench(
            options.trajectories,
            options.model,
            options.dtype,
            options.step_ms / 1000,
            prompt_s=options.prompt_ms / 1000,
            graphs=options.graphs,
        )
        for tail in options.tails.split(","):
            plans = thoughts(tail, options.trajectories, seed=7)
            passes: list[dict[str, Run]] = []
            # The first requests of an engine load and compile things.
            bench.run("turns", tail, make_requests(row, plans[:4], "turns", picture))
            for repetition in range(options.repeats):
                # In turn from the front and from the back, so that a drift meets all alike.
                order = drivers if repetition % 2 else drivers[::-1]
                runs: dict[str, Run] = {}
                for driver in order:
                    requests = make_requests(row, plans, driver, picture)
                    runs[driver] = bench.run(driver, tail, requests)
                    print(runs[driver], file=sys.stderr, flush=True)
                passes.append(runs)
            results = summary(passes)
            print(table(tail, results), flush=True)
            broken += missed(tail, results)
            report[tail] = {
                "results": results,
                "runs": [[asdict(run) for run in runs.values()] for runs in passes],
            }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for line in broken:
        print(f"missed: {line}")
    return int(options.check and bool(broken))


if __name__ == "__main__":
    sys.exit(main())
