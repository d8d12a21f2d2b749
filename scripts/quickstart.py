#!/usr/bin/env python3
"""The run of quickstart.sh: few lines on the screen, all that the programs say in a log file.

usage: python scripts/quickstart.py FOLDER [flags of swift rlhf]

Asks the embedded tiny model about a picture that it is never trained on, trains it with unmodified
ms-swift and vLLM, asks the trained model the same, and prints the table of the run. The flags given
are added to the command of the training and override its own. Another --lr_scheduler_type needs
its own --lr_scheduler_kwargs.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

MODEL = "swift_thyme/testbed/model"
STEPS = 28
DECAY_STEPS = 10
"""Last steps, over which the learning rate falls: with a constant one, the last batch decides."""
HELD_OUT = 352
"""Pictures of the evaluations: a gain of more than about 7 points is outside of chance. They are
asked in two batches, because each has a session of the sandbox meanwhile, with its memory."""
MOST_LINES = 16
"""Lines of progress, whatever the number of steps."""
LAST_LINES = 15
"""Lines of the log that are shown where a program fails."""

FLAGS = f"""
  --rlhf_type grpo
  --model {MODEL} --model_type qwen2_5_vl --template thyme_tiny
  --external_plugins plugin/agent_rm.py plugin/testbed.py
  --O3 true
  --reward_funcs fmt_orm vqa_orm cst_orm
  --use_vllm true --vllm_mode colocate --vllm_max_model_len 1024 --vllm_enforce_eager true
  --tuner_type full --torch_dtype float32 --attn_impl sdpa --use_cpu true
  --max_steps {STEPS} --learning_rate 2e-4 --lr_scheduler_type warmup_stable_decay
  --warmup_steps 5 --lr_scheduler_kwargs {{"num_decay_steps":{DECAY_STEPS}}} --beta 0
  --per_device_train_batch_size 64 --gradient_accumulation_steps 1 --num_generations 8
  --eval_strategy steps --eval_steps {STEPS} --eval_on_start true
  --per_device_eval_batch_size {HELD_OUT // 2} --num_generations_eval 1
  --max_length 1024 --max_completion_length 200 --temperature 1.0 --top_p 0.9 --top_k 50
  --logging_steps 1 --log_completions true --report_to tensorboard
  --save_strategy steps --save_steps {STEPS} --save_only_model true
  --dataloader_num_workers 0 --load_from_cache_file false
  --use_hf true --check_model false
""".split()


class Stopped(Exception):
    """A program ended badly; the message says which and how."""


def shown(path: Path) -> str:
    """Return a path as short as it can be typed."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextmanager
def running(command: list[str], log: IO[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """Start a program; on the way out it has ended.

    Raises:
        Stopped: Its exit status is not 0.
    """
    log.write(f"\n$ {' '.join(command)}\n")
    log.flush()
    process = subprocess.Popen(command, stderr=log, text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
        process.wait()
    finally:
        # Ctrl-C reaches it too: it is waited for, so that it can end what it began.
        process.wait()
    if process.returncode:
        raise Stopped(f"`{' '.join(command[:4])} ...` ended with {process.returncode}")


def ask(model: str, picture: str, question: str, log: IO[str]) -> None:
    """Show how a model answers."""
    command = ["thyme", "ask", "--model", model, "--engine", "transformers"]
    with running([*command, "--image", picture, question], log, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            print(f"  | {line}", end="", flush=True)


def records(run: Path, seen: dict[Path, int]) -> Iterator[dict[str, object]]:
    """Give what a run has logged since the last call."""
    for path in sorted(run.glob("**/logging.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        for line in whole[seen.get(path, 0) :]:
            yield json.loads(line)
        seen[path] = len(whole)


def progress(record: dict[str, object]) -> str | None:
    """Return the line of a logged step; None where it is left out."""
    step, _, last = str(record.get("global_step/max_steps", "")).partition("/")
    held_out = "eval_reward" in record
    name = "eval_" if held_out else ""
    if f"{name}reward" not in record:
        return None
    if not held_out and int(step) % -(-int(last) // MOST_LINES):
        return None
    values = {
        "reward": record[f"{name}reward"],
        "accuracy": record.get(f"{name}rewards/VqaORM/mean"),
        "tool use": record.get(f"{name}thyme/tool_use_rate"),
    }
    texts = [f"{label} {value:.3f}" for label, value in values.items() if value is not None]
    what = "held-out pictures:" if held_out else f"step {step:>3} of {last}:"
    return f"  {what:19}{', '.join(texts)}"


def train(flags: list[str], run: Path, log: IO[str]) -> None:
    """Run the training, and say how it goes."""
    seen: dict[Path, int] = {}
    for _ in records(run, seen):
        pass  # of earlier runs
    with running(["swift", "rlhf", *flags], log, stdout=log) as process:
        while True:
            ended = process.poll() is not None
            for record in records(run, seen):
                line = progress(record)
                if line is not None:
                    print(line, flush=True)
            if ended:
                return
            time.sleep(0.5)


def newest_model(run: Path, begun: float) -> Path | None:
    """Return the folder of the model that this run has saved."""
    found = [p.parent for p in run.glob("**/checkpoint-*/config.json")]
    found = [path for path in found if path.stat().st_mtime >= begun]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def main(out: Path, given: list[str]) -> None:
    """Run it in a folder."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--output_dir", type=Path, default=out / "run")
    run: Path = parser.parse_known_args(given)[0].output_dir
    out.mkdir(parents=True, exist_ok=True)
    begun, data = time.time(), out / "data"
    with (out / "quickstart.log").open("w", encoding="utf-8") as log:
        try:
            make = ["--n-sft", "0", "--n-rl", "288", "--n-eval", str(HELD_OUT), "--seed", "7"]
            module = [sys.executable, "-m", "swift_thyme.testbed.data"]
            with running([*module, str(data), *make], log, stdout=log):
                pass
            with (data / "eval.jsonl").open(encoding="utf-8") as rows:
                row = json.loads(rows.readline())
            picture, question, right = row["images"][0], row["question"], row["solution"]
            print(f"1. The embedded model on {shown(Path(picture))}; right is {right}", flush=True)
            ask(MODEL, picture, question, log)
            print(
                f"\n2. Training it; all that is said: {shown(out / 'quickstart.log')}", flush=True
            )
            sets = ["--dataset", str(data / "rl.jsonl"), "--val_dataset", str(data / "eval.jsonl")]
            train([*FLAGS, *sets, "--output_dir", str(run), *given], run, log)
            model = newest_model(run, begun)
            if model is not None:
                print("\n3. The trained model on the same picture", flush=True)
                ask(str(model), picture, question, log)
            print()
            with running([sys.executable, "-m", "swift_thyme.view.run_table", str(run)], log):
                pass
            page = out / "trajectories.html"
            view = ["thyme", "view", str(run), "-o", str(page), "--title", "quickstart"]
            with running(view, log, stdout=log):
                pass
        except Stopped as error:
            log.flush()
            last = Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join(["", *last[-LAST_LINES:], ""]), file=sys.stderr)
            sys.exit(f"error: {error}; the whole log: {shown(Path(log.name))}")
    print(f"done in {time.time() - begun:.0f} s. Next:")
    print(f"  open {shown(page)}")
    if model is not None:
        print(f"  .venv/bin/thyme ask --model {shown(model)} \\")
        print(f'    --image {shown(Path(picture))} "{question}"')
    print("  your own model and data: README.md, docs/training.md")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]).absolute(), sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
