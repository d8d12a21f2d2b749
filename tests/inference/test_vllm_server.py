"""A real vLLM server with the sampling hook, and our endpoint engine.

It is started as docs/sampling.md says: `vllm serve` is this program. The command itself needs
metadata that vLLM's CPU build lacks.
"""

import asyncio
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from swift_thyme.inference.endpoint import image_part
from swift_thyme.inference.engine import Engine, Sampling
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, run_trajectory
from swift_thyme.inference.model import ModelSettings, open_engine
from swift_thyme.inference.prompt_images import read_image
from swift_thyme.inference.task import Task, make_task
from swift_thyme.sampling.sampling_settings import SAMPLE_CODE, VLLM_HOOK
from swift_thyme.sandbox import SandboxPool
from swift_thyme.testbed.data import QUESTION, SYSTEM_PROMPT
from swift_thyme.testbed.task import make_picture
from tests.conftest import ROOT, TINY_MODEL, cpu_environment, free_port, python_program

# Importing ms-swift warns about its own dependencies.
pytestmark = [pytest.mark.ci, pytest.mark.filterwarnings("ignore")]

N_PICTURES = 12
WINDOW = "<think><code>\n```python\nimage = Image.open(image_path)\ncrop = image.crop(("
"""A turn up to a choice inside code of which the model is unsure."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("vllm")
    port, log, model = free_port(), folder / "log.txt", folder / "model"
    shutil.copytree(TINY_MODEL, model)
    # As Qwen's have one. A server takes from here what a request leaves open.
    generation = json.loads((model / "generation_config.json").read_text())
    generation["repetition_penalty"] = 1.5
    (model / "generation_config.json").write_text(json.dumps(generation))
    limits = ("--max-model-len", "2048", "--gpu-memory-utilization", "0.3")
    program = python_program("-m", "vllm.entrypoints.openai.api_server", "--model", str(model))
    argv = [*program, "--logits-processors", VLLM_HOOK, "--host", "127.0.0.1", "--port", str(port)]
    argv += [*limits, "--dtype", "float32", "--enforce-eager"]
    argv += ["--served-model-name", "tiny"]
    argv += ["--limit-mm-per-prompt", '{"image": 6, "video": 0}']
    with open(log, "w") as output:
        process = subprocess.Popen(
            argv, cwd=ROOT, env=cpu_environment(), stdout=output, stderr=output
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start: {log.read_text()[-4000:]}")


def tasks() -> list[Task]:
    made = []
    for number in range(N_PICTURES):
        file = io.BytesIO()
        make_picture(np.random.default_rng(number)).image().save(file, "PNG")
        image = read_image(file.getvalue())
        made.append(make_task(QUESTION, [image], system=SYSTEM_PROMPT, task_id=str(number)))
    return made


async def finished(engine: Engine, pool: SandboxPool, task: Task) -> FinishedTrajectory:
    settings = LoopSettings(sampling=Sampling(temperature=0))
    async for event in run_trajectory(engine, task, pool, settings, stream=False):
        if isinstance(event, FinishedTrajectory):
            return event
    raise AssertionError("a trajectory has an end")


async def all_finished(settings: ModelSettings) -> list[FinishedTrajectory]:
    with SandboxPool() as pool:
        async with open_engine(settings) as engine:
            return await asyncio.gather(*(finished(engine, pool, task) for task in tasks()))


async def test_at_temperature_zero_an_endpoint_says_what_a_local_engine_says(url: str) -> None:
    far = await all_finished(ModelSettings(endpoint=url))
    local = ModelSettings(model=str(TINY_MODEL), engine="transformers", max_model_len=2048)
    near = await all_finished(local)
    assert [t.prompt_tokens for t in far] == [t.prompt_tokens for t in near]
    same = sum(a.completion == b.completion for a, b in zip(far, near, strict=True))
    # The server shrinks a picture with another resampling, which now and then moves a window.
    assert same >= N_PICTURES - 3
    assert all(t.answer is not None and t.summary.tool_used for t in far)


def draws(url: str, count: int, **more: Any) -> list[str]:
    """Return what comes behind the window's bracket, for different seeds at temperature 1."""
    (task,) = tasks()[:1]
    text = task.prompt.split("<image>")[1]
    content = [image_part(task.images[0].data), {"type": "text", "text": text}]
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": WINDOW}]},
        ],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "temperature": 1.0,
        "max_tokens": 8,
        **more,
    }
    with httpx.Client(timeout=300) as client:
        replies = [
            client.post(f"{url}/chat/completions", json={**body, "seed": seed}).json()
            for seed in range(count)
        ]
    return [reply["choices"][0]["message"]["content"] for reply in replies]


def test_code_is_greedy_without_further_settings(url: str) -> None:
    assert len(set(draws(url, 24))) == 1


def test_a_request_can_ask_for_its_code_to_be_sampled(url: str) -> None:
    assert len(set(draws(url, 24, vllm_xargs={SAMPLE_CODE: 1}))) > 5
