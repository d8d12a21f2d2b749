"""ms-swift plugin of `gpu/steps.sh`: counts what a step does, into `counts.RANK.jsonl`.

A decode is one of a picture's file in the trainer's process, a resize one of a whole picture. The
stacks of the first process's thread are looked at 25 times a second before the loss; the file
`stacks.0.STEP.txt` has the functions that were seen most.
"""

import functools
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType

from PIL import Image, ImageFile
from swift.rlhf_trainers.grpo_trainer import GRPOTrainer
from swift.template import Template
from vllm.v1.engine.llm_engine import LLMEngine

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
generate = GRPOTrainer._generate_and_score_completions
seen_inner: Counter[CodeType] = Counter()
seen_outer: Counter[CodeType] = Counter()
n_steps = 0


def look(thread, over):
    """Note where a thread is, until told that it is over."""
    while not over.wait(0.04):
        frame = sys._current_frames().get(thread)
        found = []
        while frame is not None:
            found.append(frame.f_code)
            frame = frame.f_back
        seen_inner.update(found[:1])
        seen_outer.update(set(found))


def named(code):
    """Return the file and the name of a function."""
    name = getattr(code, "co_qualname", code.co_name)
    return f"{'/'.join(Path(code.co_filename).parts[-3:])}:{name}"


def write_stacks(folder):
    """Write the functions that were seen most in a step, but for those that always are there."""
    global n_steps
    n_steps += 1
    total = seen_inner.total() or 1
    lines = [f"looked {total} times"]
    for kind, seen in (("in itself", seen_inner), ("with what it calls", seen_outer)):
        found = [(named(code), n) for code, n in seen.most_common() if 0.005 < n / total < 0.97]
        lines += [f"{100 * n / total:5.1f} % {kind} {name}" for name, n in found]
        seen.clear()
    (folder / f"stacks.0.{n_steps}.txt").write_text("\n".join(lines) + "\n")


def watched_generate(self, *args, **kwargs):
    if self.accelerator.process_index:
        return generate(self, *args, **kwargs)
    over = threading.Event()
    watcher = threading.Thread(target=look, args=(threading.get_ident(), over), daemon=True)
    watcher.start()
    try:
        return generate(self, *args, **kwargs)
    finally:
        over.set()
        watcher.join()
        write_stacks(Path(self.args.output_dir))


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
    path = Path(self.args.output_dir) / f"counts.{self.accelerator.process_index}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return log_rollout(self, samples)


GRPOTrainer._generate_and_score_completions = watched_generate
GRPOTrainer._log_rollout = noting_log_rollout
