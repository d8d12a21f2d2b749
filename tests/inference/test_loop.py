"""The loop with a scripted model behind a faked network, and the real sandbox."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swift_thyme.core.errors import DataError, EngineError
from swift_thyme.core.segment import SegmentKind
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory_files import TrajectoryWriter, read_trajectories
from swift_thyme.core.variable_table import VARIABLES
from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.loop import (
    NO_TOOL_ERROR,
    FinishedTrajectory,
    LoopSettings,
    ObservationEvent,
    TextEvent,
    run_trajectory,
)
from swift_thyme.inference.task import make_task
from swift_thyme.sandbox import SandboxPool, SandboxSettings

from .builders import ScriptedServer, prompt_image

CROP = (
    "<think>Look. <code>\n```python\nfrom PIL import Image\n"
    "image = Image.open(image_path)\nprint(image.size)\n"
    "image.crop((0, 0, 40, 40)).save('/mnt/data/temp_processed_images/c.png')\n"
    "print('/mnt/data/temp_processed_images/c.png')\n```\n</code>"
)
ANSWER = "Red.</think>\n<answer>red</answer>"


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(SandboxSettings(workers=1, preload=("numpy", "PIL.Image"))) as pool:
        yield pool


@pytest.fixture
def task() -> Any:
    return make_task("Which colour?", [prompt_image()], system="Be brief.", task_id="t")


async def run_all(
    server: ScriptedServer, pool: SandboxPool | None, task: Any, **settings: Any
) -> tuple[list[Any], FinishedTrajectory]:
    engine = await server.engine()
    try:
        events = [e async for e in run_trajectory(engine, task, pool, LoopSettings(**settings))]
    finally:
        await engine.close()
    finished = events.pop()
    assert isinstance(finished, FinishedTrajectory)
    return events, finished


async def test_code_is_run_and_the_turn_goes_on_with_what_it_gave(
    pool: SandboxPool, task: Any
) -> None:
    server = ScriptedServer([CROP, ANSWER])
    events, finished = await run_all(server, pool, task)
    assert finished.answer == "red"
    assert finished.summary.end_reason is EndReason.ANSWER
    assert finished.summary.tool_used
    kinds = [piece.kind.value for piece in finished.segments]
    assert kinds == ["text", "code", "observation", "text"]
    observation = finished.segments[2]
    assert observation.text == "<sandbox_output>(64, 48)\n<image></sandbox_output>"
    assert [(i.width, i.height) for i in observation.images] == [(40, 40)]
    assert observation.status == "ok"
    assert finished.completion == CROP + observation.text + ANSWER
    streamed = "".join(
        e.text if isinstance(e, TextEvent) else e.segment.text
        for e in events
        if isinstance(e, TextEvent | ObservationEvent)
    )
    assert streamed == finished.completion


async def test_the_server_gets_the_turn_so_far_with_its_image(pool: SandboxPool, task: Any) -> None:
    server = ScriptedServer([CROP, ANSWER])
    await run_all(server, pool, task)
    first, second = server.bodies
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert [part["type"] for part in first["messages"][1]["content"]] == ["image_url", "text"]
    assert "continue_final_message" not in first
    assert second["continue_final_message"] is True
    assert second["add_generation_prompt"] is False
    turn = second["messages"][-1]
    assert turn["role"] == "assistant"
    assert [part["type"] for part in turn["content"]] == ["text", "image_url", "text"]
    assert turn["content"][0]["text"] == CROP + "<sandbox_output>(64, 48)\n"
    assert turn["content"][2]["text"] == "</sandbox_output>"


async def test_tokens_are_counted_as_the_server_counts_them(pool: SandboxPool, task: Any) -> None:
    _, finished = await run_all(ScriptedServer([CROP, ANSWER]), pool, task)
    assert finished.sampled_tokens == len(CROP) + len(ANSWER)
    assert finished.prompt_tokens == 50


async def test_without_tools_nothing_runs_and_the_model_goes_on(task: Any) -> None:
    _, finished = await run_all(ScriptedServer([CROP, ANSWER]), None, task, tools=False)
    assert finished.answer == "red"
    assert not finished.summary.tool_used
    assert finished.summary.statuses == []
    assert finished.segments[2].text == f"<sandbox_output>Error: {NO_TOOL_ERROR}</sandbox_output>"


async def test_a_stop_string_that_the_server_cut_off_is_put_back(
    pool: SandboxPool, task: Any
) -> None:
    code = "<think><code>print(6 * 7)"
    server = ScriptedServer([code, "So.</think><answer>42"])
    _, finished = await run_all(server, pool, task)
    assert finished.segments[1].text == "<code>print(6 * 7)</code>"
    assert "42" in finished.segments[2].text
    assert finished.answer == "42"


async def test_a_text_that_just_ends_is_no_answer(pool: SandboxPool, task: Any) -> None:
    _, finished = await run_all(ScriptedServer(["I do not know."]), pool, task)
    assert finished.answer is None
    assert finished.summary.end_reason is EndReason.END_OF_TEXT


async def test_a_full_context_ends_the_trajectory(pool: SandboxPool, task: Any) -> None:
    def refuse(body: dict[str, Any]) -> httpx.Response:
        message = "This model's maximum context length is 1024 tokens."
        return httpx.Response(400, json={"error": {"message": message}})

    _, finished = await run_all(ScriptedServer([CROP, refuse, refuse]), pool, task)
    assert finished.summary.end_reason is EndReason.LENGTH_LIMIT
    assert finished.summary.tool_used
    with pytest.raises(EngineError, match="the prompt does not fit: This model's maximum"):
        await run_all(ScriptedServer([refuse, refuse]), pool, task)


async def test_a_token_limit_that_the_server_has_no_room_for_is_left_out(
    pool: SandboxPool, task: Any
) -> None:
    def refuse(body: dict[str, Any]) -> httpx.Response:
        message = "'max_tokens' is too large: 3196. This model's maximum context length is 1024"
        return httpx.Response(400, json={"error": {"message": message}})

    server = ScriptedServer([refuse, ANSWER])
    _, finished = await run_all(server, pool, task)
    assert finished.answer == "red"
    assert "max_tokens" in server.bodies[0]
    assert "max_tokens" not in server.bodies[1]


async def test_the_last_turn_cannot_run_code(pool: SandboxPool, task: Any) -> None:
    _, finished = await run_all(ScriptedServer([CROP, CROP]), pool, task, max_turns=2)
    assert finished.summary.end_reason is EndReason.TURN_LIMIT
    assert finished.summary.statuses == ["ok"]


async def test_too_many_images_are_refused_before_anything_is_sent(pool: SandboxPool) -> None:
    server = ScriptedServer([])
    task = make_task("?", [prompt_image(), prompt_image()])
    engine = await server.engine(max_images=1)
    with pytest.raises(DataError, match="2 images, the engine takes at most 1"):
        async for _ in run_trajectory(engine, task, pool):
            pass
    assert server.bodies == []


async def test_an_answer_inside_code_or_an_observation_is_none(
    pool: SandboxPool, task: Any
) -> None:
    sly = "<think><code>print('<answer>1</answer>')</code>"
    server = ScriptedServer([sly, "Hm.</think>"])
    _, finished = await run_all(server, pool, task)
    assert finished.answer is None


async def test_leaving_in_the_middle_closes_the_sandbox_session(
    pool: SandboxPool, task: Any
) -> None:
    waiting = asyncio.Event()

    class Hangs(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            waiting.set()
            await asyncio.sleep(60)
            yield b""

    server = ScriptedServer([CROP, lambda body: httpx.Response(200, stream=Hangs())])
    engine = await server.engine()

    async def follow() -> None:
        async for _ in run_trajectory(engine, task, pool):
            pass

    following = asyncio.ensure_future(follow())
    await waiting.wait()
    assert open_sessions(pool) == 1
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert open_sessions(pool) == 0
    await engine.close()


async def test_leaving_while_a_session_opens_closes_it_too(pool: SandboxPool, task: Any) -> None:
    engine = await ScriptedServer([CROP]).engine()
    events = run_trajectory(engine, task, pool)
    following = asyncio.ensure_future(drain(events))
    for _ in range(100_000):
        if open_sessions(pool):
            break
        await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    for _ in range(200):
        if not open_sessions(pool):
            break
        await asyncio.sleep(0.02)
    assert open_sessions(pool) == 0
    await engine.close()


async def drain(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


def open_sessions(pool: SandboxPool) -> int:
    engine = pool._running()
    return sum(worker.sessions for worker in engine._workers.values())


async def test_a_record_holds_the_trajectory_and_its_images(
    pool: SandboxPool, task: Any, tmp_path: Path
) -> None:
    _, finished = await run_all(ScriptedServer([CROP, ANSWER]), pool, task)
    with TrajectoryWriter(tmp_path) as writer:
        writer.write(finished.to_record(writer, run="r", reference=("red",)))
    (record,) = read_trajectories(tmp_path / "trajectories.jsonl")
    assert record.completion == finished.completion
    assert (record.answer, record.reference, record.run) == ("red", ("red",), "r")
    assert record.tool_used and record.statuses == ("ok",)
    assert record.images[0].name == "/mnt/data/images/0.png"
    assert all((tmp_path / image.file).is_file() for image in record.all_images)
    assert len(record.all_images) == 2
    assert record.segments[1].kind is SegmentKind.CODE


async def test_a_server_that_cannot_continue_is_an_error_before_the_first_question() -> None:
    with pytest.raises(EngineError, match="does not continue an assistant's turn"):
        await ScriptedServer([], continues=False).engine()


async def test_what_fails_for_a_moment_is_tried_again(
    pool: SandboxPool, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift_thyme.inference.endpoint_http._BACK_OFF_S", 0.0)

    def busy(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(503, text="later")

    def away(body: dict[str, Any]) -> httpx.Response:
        raise httpx.ConnectError("refused")

    _, finished = await run_all(ScriptedServer([busy, away, ANSWER]), pool, task)
    assert finished.answer == "red"


async def test_what_keeps_failing_is_an_error_and_no_trajectory(
    pool: SandboxPool, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift_thyme.inference.endpoint_http._BACK_OFF_S", 0.0)
    busy = [lambda body: httpx.Response(500, text="broken")] * 5
    with pytest.raises(EngineError, match="no reply after 5 tries: HTTP 500: broken"):
        await run_all(ScriptedServer(busy), pool, task)


async def test_a_refusal_is_not_tried_again(pool: SandboxPool, task: Any) -> None:
    def refuse(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(403, json={"error": {"message": "not you"}})

    with pytest.raises(EngineError, match="HTTP 403: not you"):
        await run_all(ScriptedServer([refuse]), pool, task)


def test_seeds_differ_between_turns_and_trajectories_and_not_between_runs() -> None:
    sampling = Sampling(seed=3)
    seeds = {sampling.turn_seed(name, turn) for name in ("a", "b") for turn in (0, 1)}
    assert len(seeds) == 4
    assert sampling.turn_seed("a", 0) == dataclasses.replace(sampling).turn_seed("a", 0)
    assert sampling.turn_seed("a", 0) != Sampling(seed=4).turn_seed("a", 0)


async def test_a_change_of_the_environment_after_the_start_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, pool: SandboxPool, task: Any
) -> None:
    before, first = await run_all(ScriptedServer([CROP, ANSWER]), pool, task)
    for name in VARIABLES:
        monkeypatch.setenv(name, "unusable")
    after, second = await run_all(ScriptedServer([CROP, ANSWER]), pool, task)
    assert [type(event) for event in after] == [type(event) for event in before]
    assert second.completion == first.completion
    assert (second.answer, second.summary.statuses) == ("red", ["ok"])


@pytest.mark.parametrize("stops", [True, False])
async def test_a_generation_that_loops_is_ended_where_the_settings_say_so(
    monkeypatch: pytest.MonkeyPatch, task: Any, stops: bool
) -> None:
    monkeypatch.setenv("THYME_REPETITION_STOP", str(not stops))
    server = ScriptedServer(["so again and again " * 400])
    _, finished = await run_all(server, None, task, tools=False, stop_repetition=stops)
    repeated = finished.summary.end_reason is EndReason.REPETITION
    assert repeated is stops
