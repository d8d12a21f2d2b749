"""The published recipe's scripts on the tiny model, one after the other, as a user runs them."""

import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.protocol import STOP_STRINGS
from tests.conftest import ROOT, TINY_MODEL, python_program, run_program

CPU = (
    *("--model_type", "qwen2_5_vl", "--template", "thyme_tiny"),
    *("--external_plugins", "plugin/agent_rm.py", "plugin/testbed.py"),
    *("--use_cpu", "true", "--torch_dtype", "float32", "--attn_impl", "sdpa", "--deepspeed", ""),
    *("--max_steps", "2", "--save_steps", "2", "--max_length", "1024", "--add_version", "false"),
    *("--dataloader_num_workers", "0", "--dataset_num_proc", "1"),
    *("--use_hf", "true", "--check_model", "false", "--ddp_backend", "gloo"),
)
SFT = ("--gradient_accumulation_steps", "2")
RL = (
    *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
    *("--max_completion_length", "200", "--vllm_max_model_len", "1024"),
    *("--vllm_enforce_eager", "true"),
)
RL_SAMPLES = ("--per_device_train_batch_size", "4", "--max_completion_length", "200")


def run_script(
    name: str, model: object, dataset: object, output: Path, *flags: str, **environment: str
) -> Any:
    return run_program(
        ["bash", f"scripts/{name}.sh", *flags],
        MODEL=str(model),
        DATASET=str(dataset),
        SAVE_PATH=str(output),
        **environment,
    )


def arguments(output: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((output / "args.json").read_text())
    return saved


def losses(output: Path) -> list[float]:
    records = map(json.loads, (output / "logging.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.slow
def test_the_three_stages_follow_each_other(tmp_path: Path, tiny_data: Path) -> None:
    one, two, rl = tmp_path / "one", tmp_path / "two", tmp_path / "rl"
    demonstrations = tiny_data / "sft.jsonl"
    # The first stage runs in two processes of torchrun, the second in two that DeepSpeed's launcher
    # starts; that asks for the address of a host by ssh, be it this one.
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=2\n")
    path = make_program(tmp_path / "bin", "ssh", "echo 127.0.0.1")
    single = {"NPROC_PER_NODE": "1", "MASTER_PORT": "29571"}
    torchrun = {"NPROC_PER_NODE": "2", "MASTER_PORT": "29579"}
    double = {"HOSTFILE": str(hostfile), "MASTER_PORT": "29575", "PATH": path}
    stages = (
        ("sft_stage1", TINY_MODEL, demonstrations, one, SFT, torchrun),
        (
            "sft_stage2",
            one / "checkpoint-2",
            f"{demonstrations} {demonstrations}",
            two,
            SFT,
            double,
        ),
        ("rl", two / "checkpoint-2", tiny_data / "rl.jsonl", rl, RL, single),
    )
    for name, model, dataset, output, flags, environment in stages:
        job = run_script(name, model, dataset, output, *CPU, *flags, **environment)
        assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
        saved = arguments(output)
        assert saved["model"] == str(model)
        assert saved["O3"] is True
        assert saved["global_world_size"] == (1 if environment is single else 2)
        assert len(losses(output)) == 2
        assert (output / "checkpoint-2" / "model.safetensors").is_file()
    assert arguments(one)["loss_scale"] == arguments(two)["loss_scale"] == "thyme"
    assert arguments(one)["learning_rate"] == 1e-5
    assert arguments(two)["learning_rate"] == 1e-6
    saved = arguments(rl)
    assert saved["learning_rate"] == 5e-7
    assert saved["multi_turn_scheduler"] == "o3"
    assert saved["stop_words"] == list(STOP_STRINGS)
    assert saved["overlong_filter"] is True

    check_rl_with_a_server(tmp_path / "server", two / "checkpoint-2", tiny_data / "rl.jsonl")


def check_rl_with_a_server(output: Path, model: Path, dataset: Path) -> None:
    """Run the script that starts a server, without GPUs, and see that nothing of it is left."""
    plugins = ("--external_plugins", "plugin/agent_rm.py", "plugin/testbed.py")
    server = (
        *("--model_type", "qwen2_5_vl", "--template", "thyme_tiny", *plugins),
        *("--torch_dtype", "float32", "--max_length", "1024", "--use_hf", "true"),
        *("--vllm_max_model_len", "1024", "--vllm_enforce_eager", "true"),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    job = run_script(
        "rl_server",
        model,
        dataset,
        output,
        *(*CPU, *RL_SAMPLES, "--gradient_accumulation_steps", "2"),
        *("--vllm_max_model_len", "1024"),
        ROLLOUT_FLAGS=" ".join(server),
        ROLLOUT_DEVICES="0",
        TRAIN_DEVICES="0",
        NPROC_PER_NODE="1",
        MASTER_PORT="29581",
        VLLM_SERVER_PORT=port,
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'e2e' / 'cpu_server'}",
    )
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    assert arguments(output)["vllm_mode"] == "server"
    assert len(losses(output)) == 2
    assert (output / "checkpoint-2" / "model.safetensors").is_file()
    records = list(map(json.loads, (output / "logging.jsonl").read_text().splitlines()))
    assert sum(record.get("thyme/blocks", 0) > 0 for record in records) == 2
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"--port {port}" not in running.stdout


@pytest.mark.slow
def test_rl_in_two_processes(tmp_path: Path, tiny_data: Path) -> None:
    flags = (*CPU, *RL_SAMPLES, "--max_steps", "1", "--save_strategy", "no")
    output = tmp_path / "rl"
    job = run_script(
        "rl",
        TINY_MODEL,
        tiny_data / "rl.jsonl",
        output,
        *flags,
        *("--gradient_accumulation_steps", "1"),
        USE_VLLM="false",
        NPROC_PER_NODE="2",
        MASTER_PORT="29573",
    )
    assert job.returncode == 0, job.stdout[-2000:] + job.stderr[-4000:]
    assert arguments(output)["global_world_size"] == 2
    assert len(losses(output)) == 1


@pytest.mark.parametrize("name", ["sft_stage1", "sft_stage2", "rl", "rl_server"])
@pytest.mark.parametrize("missing", ["MODEL", "DATASET", "SAVE_PATH"])
def test_a_missing_variable_is_named(name: str, missing: str) -> None:
    given = {"MODEL": "m", "DATASET": "d", "SAVE_PATH": "s"} | {missing: ""}
    job = run_program(["bash", f"scripts/{name}.sh"], **given)
    assert job.returncode == 2
    assert f"error: {missing} is not set" in job.stderr


def make_program(folder: Path, name: str, body: str) -> str:
    """Put a program into a folder and return a PATH that finds it first."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/usr/bin/env bash\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:{os.environ['PATH']}"


def make_recorder(folder: Path, *names: str) -> str:
    """Put programs into a folder that write their arguments and environment down; return PATH."""
    path = ""
    for name in names:
        body = (
            f'printf "%s\\n" "$@" >>"{folder}/{name}.argv"\nenv >>"{folder}/{name}.env"\n'
            f'[ ! -f "${{DS_ENV_FILE:-}}" ] || cat "$DS_ENV_FILE" >>"{folder}/{name}.file"'
        )
        path = make_program(folder, name, body)
    return path


def make_server_recorder(folder: Path) -> str:
    """Do what `make_recorder` does for `swift`; a server answers once it is written down."""
    make_recorder(folder, "swift")
    wait = f'until grep -qx rollout "{folder}/swift.argv" 2>/dev/null; do sleep 0.05; done'
    return make_program(folder, "curl", wait)


def test_a_hostfile_starts_the_job_on_its_hosts_with_the_same_image_size(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    shutil.copy(ROOT / "scripts" / "deepspeed_env.example", env_file)
    path = make_recorder(tmp_path / "bin", "deepspeed")
    job = run_script(
        *("rl", "m", "d", tmp_path, "--max_steps", "7"),
        PATH=path,
        HOSTFILE="scripts/hostfile.example",
        DS_ENV_FILE=str(env_file),
        MASTER_PORT="",
    )
    assert job.returncode == 0, job.stderr
    argv = (tmp_path / "bin" / "deepspeed.argv").read_text().splitlines()
    assert argv[:5] == [
        *("--hostfile", "scripts/hostfile.example"),
        *("--no_local_rank", "--module", "swift.cli.rlhf"),
    ]
    assert argv[-2:] == ["--max_steps", "7"]
    everywhere = (tmp_path / "bin" / "deepspeed.file").read_text().splitlines()
    assert everywhere[-1] == "MAX_PIXELS=2408448"
    assert everywhere[:-1] == env_file.read_text().splitlines()


def test_deepspeeds_own_parser_reads_the_examples() -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    hosts = runner.fetch_hostfile(str(ROOT / "scripts" / "hostfile.example"))
    assert dict(hosts) == {"node-0": 8, "node-1": 8}
    for line in (ROOT / "scripts" / "deepspeed_env.example").read_text().splitlines():
        # The launcher takes every line apart in this way, comments and blank lines too.
        name, value = line.split("=", maxsplit=1)
        assert name.isidentifier() and value


def test_a_hostfile_that_is_missing_is_named(tmp_path: Path) -> None:
    job = run_script("rl", "m", "d", tmp_path, HOSTFILE="nowhere")
    assert job.returncode == 2
    assert "HOSTFILE=nowhere: no such file" in job.stderr


def test_the_variables_of_the_env_file_reach_a_job_on_one_node(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("GEN_ITER_LIMIT=5\nFMT_WEIGHT=0.7")
    path = make_recorder(tmp_path / "bin", "swift")
    environment = {"PATH": path, "DS_ENV_FILE": str(env_file), "FMT_WEIGHT": "0.1"}
    job = run_script("rl", "m", "a b", tmp_path, **environment)
    assert job.returncode == 0, job.stderr
    seen = (tmp_path / "bin" / "swift.env").read_text().splitlines()
    assert {"GEN_ITER_LIMIT=5", "FMT_WEIGHT=0.1", "MAX_PIXELS=2408448"} <= set(seen)
    argv = (tmp_path / "bin" / "swift.argv").read_text().splitlines()
    at = argv.index("--dataset")
    assert argv[at + 1 : at + 4] == ["a", "b", "--system"]


def test_the_server_gets_the_last_gpu_and_the_trainer_the_others(tmp_path: Path) -> None:
    make_server_recorder(tmp_path / "bin")
    path = make_program(tmp_path / "bin", "nvidia-smi", r"printf 'GPU 0\nGPU 1\nGPU 2\n'")
    job = run_script("rl_server", "m", "d", tmp_path, PATH=path, ROLLOUT_FLAGS="--log_level info")
    assert job.returncode == 0, job.stderr
    argv = (tmp_path / "bin" / "swift.argv").read_text()
    rollout = argv[argv.index("rollout\n") :].split("rlhf\n")[0].split("\n")
    assert "--log_level" in rollout and "--O3" in rollout
    trainer = argv[argv.index("rlhf\n") :].split("\n")
    last_mode = len(trainer) - 1 - trainer[::-1].index("--vllm_mode")
    assert trainer[last_mode + 1] == "server"
    seen = (tmp_path / "bin" / "swift.env").read_text()
    assert "CUDA_VISIBLE_DEVICES=0,1\n" in seen and "CUDA_VISIBLE_DEVICES=2\n" in seen
    assert "NPROC_PER_NODE=2\n" in seen


# `swift rollout` counts GPUs while it parses, and a trainer in server mode connects to the server.
PARSE = """
import json, sys
from unittest import mock
import swift.arguments.deploy_args as deploy
from swift.arguments import RLHFArguments, RolloutArguments
from swift.utils import parse_args
kind = {"rollout": RolloutArguments, "rlhf": RLHFArguments}[sys.argv[1]]
with mock.patch.object(deploy, "get_device_count", lambda: 1), \\
     mock.patch.object(RLHFArguments, "_init_external_vllm", lambda self: None):
    found, left = parse_args(kind, sys.argv[2:])
names = ("multi_turn_scheduler", "max_turns", "stop_words", "vllm_use_async_engine", "vllm_mode",
         "vllm_server_host", "vllm_server_port", "learning_rate", "vllm_engine_kwargs")
print("FOUND" + json.dumps([left, {n: getattr(found, n) for n in names if hasattr(found, n)}]))
"""


@pytest.mark.slow
def test_ms_swift_knows_every_flag_of_the_server_script(tmp_path: Path) -> None:
    path = make_server_recorder(tmp_path / "bin")
    devices = {"ROLLOUT_DEVICES": "1", "TRAIN_DEVICES": "0"}
    flags = {"ROLLOUT_FLAGS": " ".join(CPU[:7])}
    training = (*CPU, *RL_SAMPLES)
    job = run_script(
        "rl_server", TINY_MODEL, "d", tmp_path / "out", *training, PATH=path, **devices, **flags
    )
    assert job.returncode == 0, job.stderr
    argv = (tmp_path / "bin" / "swift.argv").read_text().splitlines()
    second = argv.index("rlhf") if argv[0] == "rollout" else argv.index("rollout")
    parsed = {}
    for part in (argv[:second], argv[second:]):
        run = run_program(python_program("-c", PARSE, *part))
        line = next((x for x in run.stdout.splitlines() if x.startswith("FOUND")), None)
        assert line is not None, run.stderr[-3000:]
        left, parsed[part[0]] = json.loads(line.removeprefix("FOUND"))
        assert left == []
    assert parsed["rollout"]["multi_turn_scheduler"] == "o3"
    assert parsed["rollout"]["vllm_use_async_engine"] is True
    assert parsed["rollout"]["stop_words"] == list(STOP_STRINGS)
    assert parsed["rlhf"]["vllm_mode"] == "server"
    assert parsed["rlhf"]["vllm_server_port"] == [8000]
    assert parsed["rlhf"]["learning_rate"] == 5e-7


def test_a_server_without_two_gpus_says_what_is_missing(tmp_path: Path) -> None:
    job = run_script("rl_server", "m", "d", tmp_path)
    assert job.returncode == 2
    assert "error: 0 GPUs here" in job.stderr
