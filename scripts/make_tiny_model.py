"""Make the testbed's tiny model from nothing.

    python scripts/make_tiny_model.py init   --out DIR              untrained model
    python scripts/make_tiny_model.py stage0 --out DIR [--device cuda]
    python scripts/make_tiny_model.py stage1 --model DIR --out DIR [--device cuda]
    python scripts/make_tiny_model.py all    --out DIR [--device cuda]

stage0 is plain torch: seeing, naming a window, reading digits; no protocol text. stage1 teaches the
protocol with ms-swift's own command line (`swift sft`) on generated demonstrations. `--quick` runs
both in about two minutes on a CPU, to see that everything works; what comes out has learned
nothing. docs/testbed.md has the settings and the results of the checkpoint in the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from swift_thyme.testbed.architecture import (
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    save_model,
)
from swift_thyme.testbed.data import make_dataset

_log = logging.getLogger("make_tiny_model")

_PLUGIN = "from swift_thyme.testbed.template import register\n\nregister()\n"


def init(out: Path, seed: int) -> tuple[Any, Any]:
    """Write an untrained model; return (model, processor)."""
    processor = build_processor(build_tokenizer())
    model = build_model(build_config(processor.tokenizer), seed)
    save_model(model, processor, out)
    return model, processor


def stage0(out: Path, args: argparse.Namespace) -> None:
    from swift_thyme.testbed.pretrain import PretrainSettings, check_forward, pretrain

    model, processor = init(out, args.seed)
    difference = check_forward(model, processor.tokenizer)
    _log.info("largest difference to transformers' forward pass: %.1e", difference)
    if difference > 1e-3:
        raise SystemExit("the batched forward pass does not compute what transformers computes")
    settings = PretrainSettings(
        device=args.device,
        seed=args.seed,
        head_steps=args.head_steps,
        joint_steps=args.joint_steps,
        batch_size=args.batch_size,
        workers=args.workers,
        max_seconds=args.max_seconds,
    )
    if args.quick:
        settings = replace(
            settings,
            head_steps=5,
            joint_steps=5,
            batch_size=16,
            workers=1,
            pool_size=256,
            min_pool=256,
        )
    started = time.monotonic()
    accuracy = pretrain(model, processor.tokenizer, settings)
    save_model(model, processor, out)
    report = {"seconds": round(time.monotonic() - started, 1), **accuracy}
    (out.parent / f"{out.name}.stage0.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _random_folder(rng: np.random.Generator) -> str:
    words = "data home user tmp run root mnt work output project out image test my a exp".split()
    parts = []
    for _ in range(int(rng.integers(1, 6))):
        word = words[int(rng.integers(len(words)))]
        if rng.random() < 0.4:
            letters = "abcdefghijklmnopqrstuvwxyz0123456789_-ABCXYZ"
            word = "".join(rng.choice(list(letters), size=int(rng.integers(2, 12))))
        parts.append(word)
    return "/" + "/".join(parts)


def _vary_paths(sft: Path, folder: Path, seed: int) -> None:
    """Put another folder into each prompt, so that the model works wherever its data lies.

    The demonstrated programs use the variable `image_path`; nothing else depends on the text.
    """
    rng = np.random.default_rng([seed, 4000])
    rows = [json.loads(line) for line in sft.read_text().splitlines()]
    for row in rows:
        user = row["messages"][1]
        user["content"] = user["content"].replace(str(folder), _random_folder(rng))
    sft.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stage1(model: Path, out: Path, args: argparse.Namespace) -> None:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    work = Path(args.work_dir or tempfile.mkdtemp(prefix="tiny_model_"))
    rows = 32 if args.quick else args.sft_rows
    paths = make_dataset(work / "data", rows, 0, 0, seed=args.seed + 1, spread_px=args.spread_px)
    _vary_paths(paths.sft, (work / "data").resolve(), args.seed)
    plugin = work / "tiny_template_plugin.py"
    plugin.write_text(_PLUGIN)
    command = [
        *(sys.executable, "-m", "swift.cli.main", "sft"),
        *("--model", str(model), "--model_type", "qwen2_5_vl", "--template", "thyme_tiny"),
        *("--external_plugins", str(plugin), "--dataset", str(paths.sft)),
        *("--output_dir", str(work / "sft"), "--add_version", "false"),
        *("--tuner_type", "full", "--torch_dtype", "float32", "--attn_impl", "sdpa"),
        *("--max_steps", "3" if args.quick else str(args.sft_steps)),
        *("--per_device_train_batch_size", str(args.sft_batch_size)),
        *("--gradient_accumulation_steps", "1", "--gradient_checkpointing", "false"),
        *("--learning_rate", str(args.sft_lr), "--lr_scheduler_type", "cosine"),
        *("--warmup_ratio", "0.05", "--seed", str(args.seed), "--data_seed", str(args.seed)),
        *("--split_dataset_ratio", "0", "--logging_steps", "10", "--report_to", "none"),
        *("--save_only_model", "true", "--save_steps", str(args.sft_save_steps)),
        *("--use_hf", "true", "--check_model", "false", "--load_from_cache_file", "false"),
    ]
    environment = dict(os.environ, MODELSCOPE_OFFLINE="1")
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        p for p in (root, environment.get("PYTHONPATH")) if p
    )
    if args.device == "cpu":
        command += ["--use_cpu", "true"]
        # Idle threads that spin slow a shared machine down several times.
        environment.update(CUDA_VISIBLE_DEVICES="", OMP_WAIT_POLICY="PASSIVE")
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    _log.info("swift sft took %.0f s; its files are in %s", time.monotonic() - started, work)
    last = max((work / "sft").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    trained = Qwen2_5_VLForConditionalGeneration.from_pretrained(last)
    save_model(trained, AutoProcessor.from_pretrained(model), out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("init", "stage0", "stage1", "all"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--model", type=Path, help="stage1: the model that stage0 wrote")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--head-steps", type=int, default=1500)
    parser.add_argument("--joint-steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--max-seconds", type=float, default=1e9, help="stage0: time for training")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--sft-rows", type=int, default=4000)
    parser.add_argument("--sft-steps", type=int, default=500)
    parser.add_argument("--sft-save-steps", type=int, default=100_000)
    parser.add_argument("--sft-batch-size", type=int, default=16)
    parser.add_argument("--sft-lr", type=float, default=5e-4)
    parser.add_argument("--spread-px", type=float, default=24.0)
    parser.add_argument("--work-dir", help="stage1: keep data and ms-swift's output here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.what == "stage1" and args.model is None:
        parser.error("stage1 needs --model")
    before = args.model or args.out.parent / f"{args.out.name}-stage0"
    if args.what == "init":
        init(args.out, args.seed)
    if args.what == "stage0":
        stage0(args.out, args)
    if args.what == "all":
        stage0(before, args)
    if args.what in ("stage1", "all"):
        stage1(before, args.out, args)


if __name__ == "__main__":
    main()
