"""Make the testbed's tiny model from nothing.

    python scripts/make_tiny_model.py init   --out DIR              untrained model
    python scripts/make_tiny_model.py stage0 --out DIR [--device cuda]
    python scripts/make_tiny_model.py stage1 --model DIR --out DIR [--device cuda]
    python scripts/make_tiny_model.py widen  --model DIR --out DIR [--device cuda]
    python scripts/make_tiny_model.py all    --out DIR [--device cuda]

stage0 is plain torch: seeing, naming a window, reading digits; no protocol text. stage1 teaches the
protocol with ms-swift's own command line (`swift sft`) on generated demonstrations; widen is a
second, shorter run of the same on other pictures with less exact windows. `--quick` runs everything
in about two minutes on a CPU, to see that it works; what comes out has learned nothing.
docs/testbed.md has the settings and the results of the checkpoint in the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tiny_model.architecture import (
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    save_model,
)

from swift_thyme.testbed.data import make_dataset

_log = logging.getLogger("make_tiny_model")


class _Pass(NamedTuple):
    """One run of `swift sft`."""

    rows: int
    steps: int
    lr: float
    spread_px: float
    seed_shift: int


_STAGE1 = _Pass(rows=5000, steps=1000, lr=5e-4, spread_px=30.0, seed_shift=0)
_WIDEN = _Pass(rows=5000, steps=500, lr=3e-4, spread_px=40.0, seed_shift=1)
_SFT_BATCH_SIZE = 16
_PLUGIN = "from swift_thyme.host.tiny_template import add_template\n\nadd_template()\n"


def init(out: Path, seed: int) -> tuple[Any, Any]:
    """Write an untrained model; return (model, processor)."""
    processor = build_processor(build_tokenizer())
    model = build_model(build_config(processor.tokenizer), seed)
    save_model(model, processor, out)
    return model, processor


def stage0(out: Path, args: argparse.Namespace) -> None:
    from tiny_model.pretrain import PretrainSettings, check_forward, pretrain

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
    # Up to about 90 characters: the model's sight must not depend on how long the prompt is.
    for _ in range(int(rng.integers(1, 13))):
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


def supervised(model: Path, out: Path, args: argparse.Namespace, what: _Pass) -> None:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    seed = args.seed + what.seed_shift
    work = Path(args.work_dir or tempfile.mkdtemp(prefix="tiny_model_")) / f"pass{what.seed_shift}"
    rows = 32 if args.quick else what.rows
    paths = make_dataset(work / "data", rows, 0, 0, seed=seed + 1, spread_px=what.spread_px)
    _vary_paths(paths.sft, (work / "data").resolve(), seed)
    plugin = work / "tiny_template_plugin.py"
    plugin.write_text(_PLUGIN)
    command = [
        *(sys.executable, "-m", "swift.cli.main", "sft"),
        *("--model", str(model), "--model_type", "qwen2_5_vl", "--template", "thyme_tiny"),
        *("--external_plugins", str(plugin), "--dataset", str(paths.sft)),
        *("--output_dir", str(work / "sft"), "--add_version", "false"),
        *("--tuner_type", "full", "--torch_dtype", "float32", "--attn_impl", "sdpa"),
        *("--max_steps", "3" if args.quick else str(what.steps)),
        *("--per_device_train_batch_size", str(_SFT_BATCH_SIZE)),
        *("--gradient_accumulation_steps", "1", "--gradient_checkpointing", "false"),
        *("--learning_rate", str(what.lr), "--lr_scheduler_type", "cosine"),
        *("--warmup_ratio", "0.05", "--seed", str(seed), "--data_seed", str(seed)),
        *("--split_dataset_ratio", "0", "--logging_steps", "10", "--report_to", "none"),
        *("--save_only_model", "true", "--save_steps", "100000"),
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
    trained = Qwen2_5_VLForConditionalGeneration.from_pretrained(last, dtype=torch.bfloat16)
    # Of what training saved only the weights are taken: its configuration turns the cache off.
    trained.save_pretrained(work / "final")
    if out.resolve() != model.resolve():
        shutil.copytree(model, out, dirs_exist_ok=True)
    shutil.copyfile(work / "final" / "model.safetensors", out / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("init", "stage0", "stage1", "widen", "all"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--model", type=Path, help="stage1 and widen: the model to start from")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    parser.add_argument("--head-steps", type=int, default=700, help="stage0")
    parser.add_argument("--joint-steps", type=int, default=2000, help="stage0")
    parser.add_argument("--batch-size", type=int, default=256, help="stage0: pictures per step")
    parser.add_argument("--max-seconds", type=float, default=1e9, help="stage0: time for training")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 2) - 1),
        help="stage0: processes that draw pictures",
    )
    parser.add_argument("--work-dir", help="stage1 and widen: keep data and ms-swift's output here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.what in ("stage1", "widen") and args.model is None:
        parser.error(f"{args.what} needs --model")

    def beside(suffix: str) -> Path:
        return Path(f"{args.out}-{suffix}")

    if args.what == "init":
        init(args.out, args.seed)
    elif args.what == "stage0":
        stage0(args.out, args)
    elif args.what == "stage1":
        supervised(args.model, args.out, args, _STAGE1)
    elif args.what == "widen":
        supervised(args.model, args.out, args, _WIDEN)
    else:
        stage0(beside("stage0"), args)
        supervised(beside("stage0"), beside("stage1"), args, _STAGE1)
        supervised(beside("stage1"), args.out, args, _WIDEN)


if __name__ == "__main__":
    main()
