"""Several endpoints behind one queue: who gets a trajectory, and what a dead one costs."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from swift_thyme.core.errors import EngineError, SettingsError
from swift_thyme.inference import endpoint_group
from swift_thyme.inference.endpoint_group import connect_all
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, run_trajectory
from swift_thyme.inference.model import ModelSettings
from swift_thyme.inference.task import default_system_prompt, make_task

from .builders import ScriptedServer, prompt_image

URLS = ("http://first.test/v1", "http://second.test/v1")
ANSWER = "<think>I see.</think>\n<answer>red</answer>"


class TwoServers:
    """Two scripted servers; those in ``dead`` refuse every turn."""

    def __init__(self, models: tuple[str, str] = ("scripted", "scripted")) -> None:
        self.models = dict(zip(("first.test", "second.test"), models, strict=True))
        self.dead: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.answering = asyncio.Event()
        self.eight_asked = asyncio.Event()

    async def handle(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": self.models[host]}]})
        is_probe = json.loads(request.content).get("max_tokens") == 1
        if not is_probe:
            self.asked[host] += 1
            if self.asked.total() == 8:
                self.eight_asked.set()
            if host in self.dead:
                return httpx.Response(400, json={"error": {"message": "the engine is dead"}})
            await self.answering.wait()
        return ScriptedServer([ANSWER]).handle(request)

    async def engine(self, **more: Any) -> Any:
        settings = ModelSettings(endpoint=",".join(URLS), **more)
        return await connect_all(settings, httpx.MockTransport(self.handle))


async def answer(engine: Any, number: int) -> str | None:
    task = make_task(
        "Which colour?", [prompt_image()], system=default_system_prompt(), task_id=str(number)
    )
    async for event in run_trajectory(engine, task, None, LoopSettings(tools=False), stream=False):
        if isinstance(event, FinishedTrajectory):
            return event.answer
    return None


async def test_trajectories_are_shared_out_evenly() -> None:
    servers = TwoServers()
    engine = await servers.engine()
    assert engine.model_name == "scripted"
    answers = asyncio.gather(*(answer(engine, number) for number in range(8)))
    await servers.eight_asked.wait()
    assert set(servers.asked.values()) == {4}
    servers.answering.set()
    assert set(await answers) == {"red"}
    await engine.close()


async def test_a_dead_endpoint_costs_its_own_and_gets_no_more_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = TwoServers()
    servers.answering.set()
    engine = await servers.engine()
    servers.dead.add("first.test")
    found = [await asyncio.gather(answer(engine, n), return_exceptions=True) for n in range(6)]
    assert isinstance(found[0][0], EngineError)
    assert found[1:] == [["red"]] * 5
    assert servers.asked["first.test"] == 1
    # An error holds its conversation.
    del found
    servers.dead.clear()
    monkeypatch.setattr(endpoint_group, "_PAUSE_S", 0.0)
    assert await answer(engine, 7) == "red"
    assert servers.asked["first.test"] == 2
    await engine.close()


async def test_endpoints_with_different_models_are_refused() -> None:
    servers = TwoServers(("one", "other"))
    with pytest.raises(EngineError, match=r"first\.test.* serves one and .*second\.test.* other"):
        await servers.engine()
    engine = await servers.engine(model="both")
    assert engine.model_name == "both"
    await engine.close()


def test_an_empty_list_of_endpoints_is_refused() -> None:
    with pytest.raises(SettingsError, match="--endpoint is empty"):
        ModelSettings(endpoint=" , ")
