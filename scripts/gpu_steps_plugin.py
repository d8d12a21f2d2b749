"""ms-swift plugin of `gpu_steps.sh`: counts what a step does, into `counts.RANK.jsonl`.

A decode is one of a picture's file in the trainer's process, a resize one of a whole picture. The
stacks of the trainer's thread are looked at 50 times a second while the engine samples; the file
`stacks.RANK.txt` has the functions that were seen most.
"""

import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from PIL import Image, ImageFile
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer
from swift.template import Template
from vllm.v1.engine.llm_engine import LLMEngine

RANK = os.environ.get("RANK", "0")
FOLDER = Path(os.environ["THYME_COUNTS"])
LARGE_PIXELS = 100_000
counted: Counter[str] = Counter()
lock = threading.Lock()


def count(name, amount=1):
    with lock:
        counted[name] += amount


def counting(owner, name, what, when=lambda self: True):
    method = getattr(owner, name)

    @functools.wraps(method)
    def counts(self, *args, **kwargs):
        if when(self):
            count(what)
        return method(self, *args, **kwargs)

    setattr(owner, name, counts)


encode = Template.encode


@functools.wraps(encode)
def timed_encode(self, *args, **kwargs):
    started = time.perf_counter()
    try:
        return encode(self, *args, **kwargs)
    finally:
        count("encode_calls")
        count("encode_s", time.perf_counter() - started)


Template.encode = timed_encode
counting(ImageFile.ImageFile, "load", "decodes", lambda picture: bool(picture.tile))
counting(
    Image.Image, "resize", "resizes", lambda picture: picture.width * picture.height > LARGE_PIXELS
)
counting(LLMEngine, "step", "engine_steps")

log_rollout = GRPOTrainer._log_rollout
generate = GRPOTrainer._rollout_samples
seen_inner: Counter[str] = Counter()
seen_outer: Counter[str] = Counter()


def look(thread, over):
    """Note where a thread is, until told that it is over."""
    while not over.wait(0.02):
        frame = sys._current_frames().get(thread)
        names = []
        while frame is not None:
            code = frame.f_code
            names.append(
                f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_qualname}"
                if hasattr(code, "co_qualname")
                else f"{code.co_filename}:{code.co_name}"
            )
            frame = frame.f_back
        seen_inner.update(names[:1])
        seen_outer.update(set(names))


def watched_generate(self, *args, **kwargs):
    over = threading.Event()
    watcher = threading.Thread(target=look, args=(threading.get_ident(), over), daemon=True)
    watcher.start()
    try:
        return generate(self, *args, **kwargs)
    finally:
        over.set()
        watcher.join()


def noting_log_rollout(self, samples):
    digest = hashlib.sha256()
    lengths = []
    for sample in samples:
        digest.update(json.dumps([sample.response_token_ids, sample.response_loss_mask]).encode())
        lengths.append(sum(map(sum, sample.response_loss_mask)))
    with lock:
        found = dict(counted)
        counted.clear()
    record = {
        "encode_calls": 0,
        "encode_s": 0.0,
        "decodes": 0,
        "resizes": 0,
        "engine_steps": 0,
        **found,
        "trajectories": len(samples),
        "longest": max(lengths),
        "digest": digest.hexdigest()[:16],
    }
    with (FOLDER / f"counts.{RANK}.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    total = sum(seen_inner.values()) or 1
    lines = [
        f"{100 * n / total:5.1f} % {kind} {name}"
        for kind, seen in (("self", seen_inner), ("with", seen_outer))
        for name, n in seen.most_common(60)
    ]
    (FOLDER / f"stacks.{RANK}.txt").write_text("\n".join(lines) + "\n")
    return log_rollout(self, samples)


GRPOTrainer._rollout_samples = watched_generate
GRPOTrainer._log_rollout = noting_log_rollout
