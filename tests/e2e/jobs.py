"""Runs the real ``swift`` command line on the embedded tiny model."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import (
    ROOT,
    TINY_MODEL,
    cpu_environment,
    free_port,
    python_program,
    run_program,
)
from tests.plain import as_argv as as_argv

SWIFT = ("-m", "swift.cli.main")
START_S = 400
"""Seconds after which a server is taken for hanging; on a quiet machine it takes about 40."""
VLLM_FLAGS = (
    *("--use_vllm", "true", "--vllm_mode", "colocate"),
    *("--vllm_max_model_len", "1024", "--vllm_enforce_eager", "true"),
)


def grpo_flags(
    data: Path, output: Path, *, steps: int = 1, plugins: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the flags of a small GRPO job as a dict, in the form of a YAML config."""
    return {
        "rlhf_type": "grpo",
        "model": str(TINY_MODEL),
        "model_type": "qwen2_5_vl",
        "template": "thyme_tiny",
        "external_plugins": ["plugin/agent_rm.py", "plugin/testbed.py", *plugins],
        "O3": True,
        "reward_funcs": ["fmt_orm", "vqa_orm", "cst_orm"],
        "dataset": str(data / "rl.jsonl"),
        "split_dataset_ratio": 0,
        "tuner_type": "full",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "use_cpu": True,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_length": 1024,
        "max_completion_length": 200,
        "temperature": 1.0,
        "beta": 0,
        "logging_steps": 1,
        "report_to": "tensorboard",
        "save_strategy": "no",
        "dataloader_num_workers": 0,
        "load_from_cache_file": False,
        "use_hf": True,
        "check_model": False,
        "output_dir": str(output),
    }


def server_flags() -> dict[str, Any]:
    """Return the flags of a ``swift rollout`` that serves such a job."""
    return {
        "model": TINY_MODEL,
        "model_type": "qwen2_5_vl",
        "template": "thyme_tiny",
        "external_plugins": ["plugin/agent_rm.py", "plugin/testbed.py"],
        "O3": True,
        "torch_dtype": "float32",
        "max_length": 1024,
        "use_hf": True,
        "vllm_max_model_len": 1024,
        "vllm_enforce_eager": True,
        "vllm_gpu_memory_utilization": 0.3,
    }


def swift(command: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``swift COMMAND ARGV`` and return it with its output captured."""
    return run_program(python_program(*SWIFT, command, *argv), timeout_s=560, **environment)


def training_log(output: Path) -> list[dict[str, Any]]:
    """Return the records of a run's ``logging.jsonl`` that belong to training steps."""
    (path,) = output.glob("**/logging.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if "reward" in record]


def asked_at(folder: Path, step: int) -> list[tuple[str, str]]:
    """Return what a step of a run asked, in order: the prompts and the right answers."""
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    # ms-swift writes those of the last step twice.
    row = next(row for row in rows if row["step"][0] == str(step))
    return list(zip(row["prompt"], row["solution"], strict=True))


def saved_arguments(output: Path) -> dict[str, Any]:
    """Return a run's ``args.json``."""
    (path,) = output.glob("**/args.json")
    arguments: dict[str, Any] = json.loads(path.read_text())
    return arguments


@contextmanager
def rollout_server(log: Path, flags: dict[str, Any]) -> Iterator[int]:
    """Run ``swift rollout`` and give its port; its processes are gone afterwards."""
    port = free_port()
    argv = as_argv(flags | {"host": "127.0.0.1", "port": port})
    with log.open("w") as file:
        server = subprocess.Popen(
            python_program(*SWIFT, "rollout", *argv),
            cwd=ROOT,
            env=cpu_environment(PYTHONPATH=str(ROOT)),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(START_S):
            assert server.poll() is None, log.read_text()[-4000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/", timeout=2)
                break
            except OSError:
                time.sleep(1)
        else:
            raise AssertionError(log.read_text()[-4000:])
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
