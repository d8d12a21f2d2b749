"""Inference and serving with Qwen's own vocabulary and a scripted policy; an endpoint agrees."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swift_thyme.inference.loop import (
    FinishedTrajectory,
    ObservationEvent,
    TextEvent,
    run_trajectory,
)
from swift_thyme.inference.model import ModelSettings
from swift_thyme.inference.task import make_task
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from swift_thyme.serve.app import ServeSettings, make_app
from tests.inference.builders import ScriptedServer, local_engine
from tests.sampling.boundary_scripts import ANSWER, CODE, LATE, SCRIPTS, prompt_of

# Importing ms-swift warns about its own dependencies.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SAMPLE = (0, 1, 3, 5, 7, 14, 19)
"""Numbers of scripts: several tails, a blank one, each spelling."""


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(SandboxSettings(workers=1, preload=())) as pool:
        yield pool


@pytest.fixture(scope="module")
def engine(real_vocabulary: Path) -> Iterator[Any]:
    from swift.template import Template

    from tests.sampling.boundary_say import saying

    settings = ModelSettings(
        model=str(real_vocabulary), engine="transformers", max_model_len=1024, max_images=1
    )
    engine = local_engine(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Template, "prepare_generate_kwargs", saying())
        yield engine


def completion(number: int) -> str:
    script = SCRIPTS[number]
    tail = script.tail if not script.tail[1:].strip() else ">"
    code, answer = CODE.format(n=number), ANSWER.format(n=number)
    observed = f"<sandbox_output>{number * 7}</sandbox_output>"
    return f"{code}{script.code}{tail}{observed}{answer}{script.answer}{tail}"


async def run(engine: Any, pool: SandboxPool, number: int) -> FinishedTrajectory:
    """Run a script and check that the stream said the completion."""
    task = make_task(prompt_of(number), task_id=str(number))
    streamed, last = "", None
    async for event in run_trajectory(engine, task, pool):
        if isinstance(event, TextEvent):
            streamed += event.text
        elif isinstance(event, ObservationEvent):
            streamed += event.segment.text
        last = event
    assert isinstance(last, FinishedTrajectory)
    assert streamed == last.completion
    return last


@pytest.fixture(scope="module")
def local(engine: Any, pool: SandboxPool) -> dict[int, FinishedTrajectory]:
    """What the transformers engine gives, by number of the script."""

    async def run_all() -> list[FinishedTrajectory]:
        return await asyncio.gather(*(run(engine, pool, number) for number in SAMPLE))

    return dict(zip(SAMPLE, asyncio.run(run_all()), strict=True))


def verdict(finished: FinishedTrajectory) -> tuple[Any, ...]:
    """Return what a score depends on."""
    summary = finished.summary
    return finished.completion, finished.answer, summary.end_reason, summary.statuses


def test_the_loop_runs_the_code_and_takes_the_answer(local: dict[int, FinishedTrajectory]) -> None:
    for number, finished in local.items():
        assert finished.completion == completion(number)
        assert finished.answer == str(number)
        assert finished.summary.tool_used
        repairs = finished.summary.boundary_repairs
        assert repairs == 2 * bool(SCRIPTS[number].tail[1:].strip())
        written = [s.tokens or 0 for s in finished.segments if s.kind.value != "observation"]
        assert sum(written) == (finished.sampled_tokens or 0) + repairs


@pytest.mark.parametrize("cuts", [True, False])
async def test_an_endpoint_gives_the_same(
    local: dict[int, FinishedTrajectory], pool: SandboxPool, cuts: bool
) -> None:
    """Servers of text cut it at the stop string, or leave what its token carried more."""
    for number, expected in local.items():
        script = SCRIPTS[number]
        is_stop = script.code != "cODe"
        # Text of the blank tail, too, stands behind the stop string.
        tail = ">" if cuts and is_stop else script.tail + LATE * (not is_stop)
        turns = [CODE.format(n=number) + script.code + tail]
        turns.append(ANSWER.format(n=number) + script.answer + tail)
        endpoint = await ScriptedServer(turns).engine()
        try:
            finished = await run(endpoint, pool, number)
        finally:
            await endpoint.close()
        if cuts and script.tail.strip() == ">":
            # Only a local model's text has the blanks of its token.
            expected = without_blanks(expected)
        assert verdict(finished) == verdict(expected)


def without_blanks(finished: FinishedTrajectory) -> FinishedTrajectory:
    segments = [
        dataclasses.replace(s, text=s.text.rstrip("\n")) if s.text.endswith(">\n\n") else s
        for s in finished.segments
        if s.text.strip()
    ]
    return dataclasses.replace(finished, segments=tuple(segments))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_says_the_same(engine: Any, pool: SandboxPool, stream: bool) -> None:
    app = make_app(engine, pool, ServeSettings(system=""))
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": prompt_of(0)}],
        "stream": stream,
        "thyme": {"content": "completion"},
    }
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        reply = await client.post("/v1/chat/completions", json=body)
    if stream:
        lines = [line[6:] for line in reply.text.split("\n\n") if line]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
        said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        thyme = chunks[-1]["thyme"]
    else:
        said, thyme = reply.json()["choices"][0]["message"]["content"], reply.json()["thyme"]
    assert said == completion(0)
    assert (thyme["answer"], thyme["tool_used"], thyme["end_reason"]) == ("0", True, "answer")
