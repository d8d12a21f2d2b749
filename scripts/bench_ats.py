#!/usr/bin/env python
"""What sampling code at temperature 0 costs: inside the engine, and by asking the engine again.

One vLLM engine and the same requests serve four variants in turn, and all ratios are between runs
that are next to each other: "off" samples everything at temperature 1; "guard" rules placeholder
tokens out; "on" is the whole hook (temperature 0 inside code, guard, repetition stop); "resubmit"
is the published way, which stops at <code>, asks again at temperature 0 and goes on after the tool.
A request is a whole trajectory: text, code, a returned picture, an answer. The tool's answer is a
fixed picture, so that no sandbox is timed. Rounds are requests to the engine per tool call: 2 is
one before the tool and one after it. With --check the exit status is 1 when "on" is more than 2 %
slower than "off".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "swift_thyme" / "testbed" / "model"
LIMIT = 0.02
"""Share of the tokens per second that "on" may cost against "off"."""
HOOK = "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor"
VARIANTS = ("off", "guard", "on", "resubmit")


@dataclass(frozen=True)
class Run:
    """One pass over all requests."""

    variant: str
    tokens: int
    """Sampled tokens."""
    seconds: float
    steps: int
    """Forward passes of the engine."""
    rounds: int
    """Requests to the engine."""
    tool_calls: int
    encoded_images: int
    """Images handed to the engine with its requests."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class Bench:
    """An engine whose sampling hook can be taken out and put back."""

    def __init__(self, requests: int, model: Path, dtype: str) -> None:
        import torch
        from swift.infer_engine import GRPOVllmEngine

        from swift_thyme.host import tiny_template as template
        from swift_thyme.host.cpu_vllm import free_share
        from swift_thyme.host.template_images import install_image_accounting
        from swift_thyme.sampling.sampling_settings import SamplingSettings

        install_image_accounting()
        template.add_template()
        self.settings = {
            "guard": SamplingSettings(stop_repetition=False),
            "on": SamplingSettings(adaptive=True),
        }
        self.engine = GRPOVllmEngine(
            str(model),
            model_type="qwen2_5_vl",
            template_type="thyme_tiny",
            torch_dtype=getattr(torch, dtype),
            max_model_len=1024,
            enforce_eager=True,
            max_num_seqs=requests,
            gpu_memory_utilization=free_share(0.9),
            limit_mm_per_prompt={"image": 6, "video": 0},
            seed=0,
            logprobs_mode="processed_logprobs",
            engine_kwargs={
                "logits_processors": [HOOK],
                "additional_config": {"thyme": self.settings["on"].as_config()},
            },
        )
        runner = self.engine.engine.model_executor.driver_worker.worker.model_runner
        self.batch = runner.input_batch
        self.processors = self.batch.logitsprocs.non_argmax_invariant
        (self.hook,) = [p for p in self.processors if type(p).__name__ == "ThymeLogitsProcessor"]
        self.n_steps = 0
        step = self.engine.engine.step

        def counted_step() -> Any:
            self.n_steps += 1
            return step()

        self.engine.engine.step = counted_step
        self.tokenizer = self.engine.template.tokenizer

    @contextmanager
    def variant(self, name: str) -> Iterator[None]:
        """Run with one variant's hook; without one, vLLM does not even gather the sampled ids."""
        self.processors[:] = [p for p in self.processors if p is not self.hook]
        settings = self.settings.get(name)
        if settings is not None:
            self.hook._settings = settings
            self.processors.append(self.hook)
        self.batch.logitsprocs_need_output_token_ids = settings is not None
        yield

    def ask(self, requests: list[dict], stop: list[str], temperature: float) -> list[list[int]]:
        from swift.infer_engine import RequestConfig

        config = RequestConfig(
            max_tokens=160,
            temperature=temperature,
            top_k=50,
            top_p=0.9,
            stop=stop,
            return_details=True,
            logprobs=True,
        )
        outputs = self.engine.infer(requests, config, use_tqdm=False)
        return [output.response.choices[0].token_ids for output in outputs]

    def run(self, variant: str, rows: list[dict]) -> Run:
        """Sample one trajectory for each row."""
        close, answer = "</code>", "</answer>"
        observation = self._observation()
        turns = [Trajectory(row) for row in rows]
        tokens = rounds = tool_calls = images = 0

        def ask(some: list[Trajectory], stop: list[str], temperature: float = 1.0) -> None:
            nonlocal tokens, rounds, images
            if not some:
                return
            rounds += len(some)
            images += sum(len(turn.images) for turn in some)
            sampled = self.ask([turn.request() for turn in some], stop, temperature)
            for turn, ids in zip(some, sampled, strict=True):
                turn.ids += ids
                tokens += len(ids)

        def ending_with(tag: str) -> list[Trajectory]:
            return [turn for turn in turns if self.tokenizer.decode(turn.ids[-8:]).endswith(tag)]

        with self.variant(variant):
            self.n_steps, started = 0, time.perf_counter()
            if variant == "resubmit":
                ask(turns, ["<code>", answer])
                ask(ending_with("<code>"), [close, answer], 0.0)
            else:
                ask(turns, [close, answer])
            ran = ending_with(close)
            for turn in ran:
                tool_calls += 1
                turn.ids += observation
                turn.images.append(self.picture)
            ask(ran, ["<code>", answer] if variant == "resubmit" else [close, answer])
            seconds = time.perf_counter() - started
        return Run(variant, tokens, seconds, self.n_steps, rounds, tool_calls, images)

    def _observation(self) -> list[int]:
        text = "<sandbox_output><|vision_start|><|image_pad|><|vision_end|></sandbox_output>"
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def use_picture(self, path: str) -> None:
        """Set what the tool gives back."""
        self.picture = path


class Trajectory:
    """What a request has so far."""

    def __init__(self, row: dict) -> None:
        self.messages, self.images = row["messages"], list(row["images"])
        self.ids: list[int] = []

    def request(self) -> dict:
        answer = [{"role": "assistant", "content": list(self.ids)}] if self.ids else []
        return {"messages": [*self.messages, *answer], "images": list(self.images)}


def rows_and_picture(folder: Path, requests: int) -> tuple[list[dict], str]:
    """Return prompts, and a picture that a program of a demonstration gave back."""
    from swift_thyme.testbed.data import make_dataset

    make_dataset(folder, n_sft=1, n_rl=min(requests, 64), n_eval=0, seed=5)
    rows = [json.loads(line) for line in (folder / "rl.jsonl").read_text().splitlines()]
    demonstration = json.loads((folder / "sft.jsonl").read_text())
    return [rows[i % len(rows)] for i in range(requests)], demonstration["images"][1]


def summary(runs: list[list[Run]]) -> dict[str, dict[str, float]]:
    """Return medians over the repetitions; ratios are taken within a repetition."""
    result = {}
    for index, variant in enumerate(VARIANTS):
        own = [repetition[index] for repetition in runs]
        ratios = [
            repetition[index].tokens_per_s / repetition[0].tokens_per_s for repetition in runs
        ]
        per_step = [(r[index].seconds / r[index].steps) / (r[0].seconds / r[0].steps) for r in runs]
        result[variant] = {
            "tokens_per_s": statistics.median(run.tokens_per_s for run in own),
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "step_time_ratio": statistics.median(per_step),
            "rounds_per_tool_call": sum(r.rounds for r in own) / sum(r.tool_calls for r in own),
            "images_per_tool_call": sum(r.encoded_images for r in own)
            / sum(r.tool_calls for r in own),
            "steps": statistics.median(run.steps for run in own),
        }
    return result


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "| variant | tokens/s | against off | range | step time | rounds per tool call "
        "| images sent per tool call | engine steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant, r in results.items():
        lines.append(
            f"| {variant} | {r['tokens_per_s']:.0f} | {r['ratio']:.3f} "
            f"| {r['ratio_low']:.3f} to {r['ratio_high']:.3f} | {r['step_time_ratio']:.3f} "
            f"| {r['rounds_per_tool_call']:.2f} | {r['images_per_tool_call']:.2f} "
            f"| {r['steps']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=64, help="trajectories at a time")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each variant")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--check", action="store_true", help="exit with 1 over the limit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, picture = rows_and_picture(Path(folder), options.requests)
        bench = Bench(options.requests, options.model, options.dtype)
        bench.use_picture(picture)
        for variant in VARIANTS:
            bench.run(variant, rows)
        runs = []
        for repetition in range(options.repeats):
            # In turn from the front and from the back, so that a drift meets all alike.
            order = VARIANTS if repetition % 2 == 0 else VARIANTS[::-1]
            found = {variant: bench.run(variant, rows) for variant in order}
            runs.append([found[variant] for variant in VARIANTS])
    results = summary(runs)
    print(table(results))
    if options.json is not None:
        report = {
            "python": platform.python_version(),
            "requests": options.requests,
            "results": results,
            "runs": [[asdict(run) for run in repetition] for repetition in runs],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(options.check and results["on"]["ratio"] < 1 - LIMIT)


if __name__ == "__main__":
    sys.exit(main())
