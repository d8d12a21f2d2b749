"""A job on two nodes of two processes, as the documented launchers start it, and its resumption."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, cpu_environment, python_program

from .jobs import SWIFT, as_argv, asked_at, grpo_flags, training_log
from .network_nodes import INTERFACE, Node, two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.ci]

PATIENCE_S = 500
PROCESSES = 2
"""Of a node."""
PORT = 29_500
"""Of the first node, whose namespace has no other program."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    with two_nodes() as both:
        yield both


@pytest.fixture
def judge_url(nodes: tuple[Node, Node]) -> Iterator[str]:
    """A judge on the first node."""
    first, _ = nodes
    program = python_program("-m", "swift_thyme.rewards.local_judge", "--host", first.address)
    judge = subprocess.Popen(
        first.inside(*program),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=cpu_environment(PYTHONPATH=str(ROOT)),
    )
    assert judge.stdout is not None
    with judge.stdout:
        yield judge.stdout.readline().decode().strip()
        first.kill_programs()
        judge.wait()


def flags_of(data: Path, output: Path, steps: int) -> dict[str, Any]:
    """Flags of a job with a judge and several checkpoints within an epoch."""
    return grpo_flags(data, output, steps=steps) | {
        "reward_funcs": ["fmt_orm", "vqa_prm"],
        "per_device_train_batch_size": 2,
        "num_generations": 4,
        "ddp_backend": "gloo",
        "save_strategy": "steps",
        "save_steps": 1,
        "log_completions": True,
    }


def environment_with(judge_url: str) -> dict[str, str]:
    return {
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "THYME_JUDGE_URLS": judge_url,
        "THYME_JUDGE_MODEL": "local",
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def started(
    nodes: tuple[Node, Node], logs: Path, flags: dict[str, Any], judge_url: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start ``swift rlhf`` on both nodes, by torchrun's variables."""
    jobs = []
    logs.mkdir()
    try:
        for rank, node in enumerate(nodes):
            environment = cpu_environment(
                **environment_with(judge_url),
                NNODES="2",
                NODE_RANK=str(rank),
                MASTER_ADDR=nodes[0].address,
                MASTER_PORT=str(PORT),
                NPROC_PER_NODE=str(PROCESSES),
            )
            with (logs / f"node{rank}").open("wb") as file:
                program = python_program(*SWIFT, "rlhf", *as_argv(flags))
                jobs.append(
                    subprocess.Popen(
                        node.inside(*program),
                        cwd=ROOT,
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield jobs
    finally:
        for job, node in zip(jobs, nodes, strict=False):
            if job.poll() is None:
                node.kill_programs()
            job.wait()


def run(nodes: tuple[Node, Node], logs: Path, flags: dict[str, Any], judge_url: str) -> Path:
    """Run a job to its end and return its folder."""
    with started(nodes, logs, flags, judge_url) as jobs:
        end = time.monotonic() + PATIENCE_S
        for rank, job in enumerate(jobs):
            status = job.wait(end - time.monotonic())
            assert status == 0, (logs / f"node{rank}").read_text()[-4000:]
    return newest_folder(Path(flags["output_dir"]))


def newest_folder(output: Path) -> Path:
    return max(output.glob("v*-*"), key=lambda path: int(path.name[1:].split("-")[0]))


def check_steps(steps: list[dict[str, Any]]) -> None:
    """Every process of both nodes rolled out, ran code and asked the judge."""
    for step in steps:
        assert step["thyme/trajectories"] == 2 * 2 * PROCESSES
        assert step["thyme/images_total"] > 0
        assert step["thyme/code_success_rate"] > 0
        assert step["thyme/judge_failed"] == 0 and step["thyme/rewards_unscored"] == 0
        assert step["thyme/judge_calls"] > 0


def test_torchrun_on_two_nodes_and_a_resumed_job_goes_on_in_the_same_order(
    nodes: tuple[Node, Node], judge_url: str, tmp_path: Path, tiny_data: Path
) -> None:
    flags = flags_of(tiny_data, tmp_path / "run", steps=3)
    first = run(nodes, tmp_path / "logs", flags, judge_url)
    steps = training_log(first)
    assert len(steps) == 3
    check_steps(steps)
    checkpoint = first / "checkpoint-1"
    resumed = flags | {"resume_from_checkpoint": str(checkpoint)}
    second = run(nodes, tmp_path / "logs of the second", resumed, judge_url)
    assert second != first
    again = training_log(second)
    assert [step["global_step/max_steps"] for step in again] == ["2/3", "3/3"]
    check_steps(again)
    assert [asked_at(second, step) for step in (2, 3)] == [asked_at(first, step) for step in (2, 3)]
    assert asked_at(first, 1) != asked_at(first, 2)


def test_a_node_that_dies_ends_the_job_on_the_other(
    nodes: tuple[Node, Node], judge_url: str, tmp_path: Path, tiny_data: Path
) -> None:
    flags = flags_of(tiny_data, tmp_path / "run", steps=1000)
    with started(nodes, tmp_path / "logs", flags, judge_url) as jobs:
        end = time.monotonic() + PATIENCE_S
        while not any(training_log(log.parent) for log in tmp_path.glob("run/*/logging.jsonl")):
            assert all(job.poll() is None for job in jobs) and time.monotonic() < end
            time.sleep(0.2)
        nodes[1].kill_programs()
        assert jobs[0].wait(end - time.monotonic()) != 0
    assert "error" in (tmp_path / "logs" / "node0").read_text().lower()


SHELLS = """#!{python}
# Stands in for ssh and pdsh: runs a command on nodes by entering their namespaces.
import subprocess, sys
nodes = {nodes}
place = next(i for i, one in enumerate(sys.argv) if one.split(",")[0] in nodes)
command = " ".join(sys.argv[place + 1 :])
jobs = []
for rank, host in enumerate(sys.argv[place].split(",")):
    enter = ["nsenter", "--target", nodes[host], "--net", "bash", "-c"]
    jobs.append(subprocess.Popen([*enter, command.replace("%n", str(rank))]))
sys.exit(max(job.wait() for job in jobs))
"""


def test_deepspeeds_launcher_on_two_nodes(
    nodes: tuple[Node, Node], judge_url: str, tmp_path: Path, tiny_data: Path
) -> None:
    hosts = {node.address: str(node.pid) for node in nodes}
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "pdsh"):
        (programs / name).write_text(SHELLS.format(python=sys.executable, nodes=hosts))
        (programs / name).chmod(0o755)
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("".join(f"{host} slots={PROCESSES}\n" for host in hosts))
    flags = flags_of(tiny_data, tmp_path / "run", steps=1)
    launch = f'here={ROOT}/scripts; cd {ROOT}; . scripts/common.sh; launch rlhf "$@"'
    environment = cpu_environment(
        **environment_with(judge_url),
        HOSTFILE=str(hostfile),
        MASTER_PORT=str(PORT + 1),
        DS_ENV_FILE=str(tmp_path / "variables"),
        DS_ACCELERATOR="cpu",
        MAX_PIXELS="200704",
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    kept = ("THYME_", "GLOO_", "PYTHONPATH", "CUDA_", "HF_", "USE_HF", "MODELSCOPE_", "DS_ACC")
    lines = [f"{k}={v}\n" for k, v in environment.items() if k.startswith(kept) and v]
    (tmp_path / "variables").write_text("".join(lines))
    try:
        done = subprocess.run(
            nodes[0].inside("bash", "-c", launch, "launch", *as_argv(flags)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        for node in nodes:
            node.kill_programs()
    assert done.returncode == 0, done.stdout[-4000:]
    steps = training_log(newest_folder(tmp_path / "run"))
    assert len(steps) == 1
    check_steps(steps)
