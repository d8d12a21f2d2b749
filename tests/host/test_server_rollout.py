"""The loop of server mode against ms-swift's loop of colocate mode: same hooks, same results.

Only the engine is absent; ``tests/e2e/test_parity.py`` has the same scripts on real engines.
"""

import asyncio
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core import repetition
from swift_thyme.core.errors import SandboxUnavailableError
from tests.e2e import parity_scripts as scripts
from tests.host.test_scheduler import load_template, make_request

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]


@pytest.fixture(scope="module")
def template() -> Any:
    return load_template()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.jpg"
    Image.new("RGB", (448, 448), (10, 120, 200)).save(path)
    return path


class ScriptedEngine:
    """Says the scripts of :mod:`tests.e2e.parity_scripts`, and stops where an engine would."""

    def __init__(self, template: Any) -> None:
        self.template = template
        self.tokenizer = template.tokenizer
        self.prompts: dict[str, list[list[int]]] = {}

    def infer(self, request: Any) -> Any:
        """Return the response to a request."""
        inputs = {"messages": request.messages, "images": request.images}
        prompt = list(self.template.encode(inputs)["input_ids"])
        self.prompts.setdefault(request.uuid, []).append(prompt)
        return self.answer(prompt, request.uuid)

    def answer(self, prompt: list[int], name: str) -> Any:
        """Return the response to a prompt, with log-probabilities that tell a token's place."""
        from swift.infer_engine import protocol

        script = scripts.next_turn(self.tokenizer.decode(prompt), self.tokenizer)
        assert script is not None
        room = min(scripts.MAX_TURN_TOKENS, scripts.MAX_TOKENS - len(prompt))
        ids = script[:room]
        stops = self.tokenizer.decode(ids).endswith(("</code>", "</answer>"))
        text = self.tokenizer.decode(ids)
        if not stops and len(script) < room:
            ids = [*ids, self.tokenizer.eos_token_id]
        places = range(len(prompt), len(prompt) + len(ids))
        choice = protocol.ChatCompletionResponseChoice(
            index=0,
            message=protocol.ChatMessage(role="assistant", content=text),
            finish_reason="length" if len(ids) == room else "stop",
            token_ids=ids,
            logprobs={"content": [{"logprob": -place / 1000} for place in places]},
        )
        return protocol.ChatCompletionResponse(
            model="m",
            choices=[choice],
            usage=protocol.UsageInfo(0, 0, 0),
            id=name,
            prompt_token_ids=prompt,
        )

    async def infer_async(self, request: Any, config: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.infer(request)


def make_scheduler(template: Any, *, trains_code: bool = True) -> Any:
    from swift_thyme.host.scheduler import O3Scheduler

    scheduler = O3Scheduler(ScriptedEngine(template), scripts.MAX_TURNS)
    scheduler._limits = scheduler._limits._replace(
        max_total_tokens=scripts.MAX_TOKENS, max_images=scripts.MAX_IMAGES
    )
    scheduler._sampling = replace(scheduler._sampling, train_code_tokens=trains_code)
    return scheduler


def request_for(name: str, picture: Path, uuid: str) -> Any:
    from swift.infer_engine.protocol import RolloutInferRequest

    from swift_thyme.core.protocol import build_user_prompt

    plain = make_request(picture)
    prompt = build_user_prompt(scripts.question_of(name), str(picture), (448, 448))
    return RolloutInferRequest(
        messages=[{"role": "user", "content": prompt}],
        images=plain.images,
        data_dict={"question": name},
        uuid=uuid,
    )


def in_colocate_mode(scheduler: Any, requests: list[Any]) -> list[Any]:
    """Run trajectories with ms-swift's own loop."""
    from swift.infer_engine.protocol import RolloutOutput
    from swift.rollout import invoke_async_hook, run_multi_turn

    def rollout(pending: list[Any], config: Any) -> list[Any]:
        return [RolloutOutput(response=scheduler.infer_engine.infer(r)) for r in pending]

    invoke_async_hook(scheduler.on_trajectory_start(requests))
    first = rollout(requests, None)
    return run_multi_turn(requests, first, scheduler, rollout, None, scripts.MAX_TURNS)


def comparable(output: Any) -> dict[str, Any]:
    """Return an output without the seconds that its code took."""
    infos = {k: v for k, v in output.rollout_infos.items() if k != "thyme_sandbox_s"}
    for block in infos.get("thyme_block_records", []):
        del block["duration_s"]
    fields = output.model_dump()
    fields["response"].update(id=None, created=None)
    return {**fields, "rollout_infos": infos}


@pytest.fixture(scope="module")
def outputs(
    template: Any,
    picture: Path,
) -> dict[str, dict[str, Any]]:
    """The trajectories of both modes, by mode and script."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LEAST_TOKENS", "_NEEDLE"):
            patch.setattr(repetition, name, getattr(repetition, name))
        scripts.shorten_loops()
        return run_in_both_modes(template, picture)


def run_in_both_modes(template: Any, picture: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"colocate": {}, "server": {}}
    for trained in (True, False):
        names = [name for name in scripts.SCRIPTS if name.startswith("untrained") != trained]
        for mode in found:
            scheduler = make_scheduler(template, trains_code=trained)
            requests = [request_for(name, picture, f"{mode} {name}") for name in names]
            if mode == "colocate":
                results = in_colocate_mode(scheduler, requests)
            else:
                results = asyncio.run(scheduler.async_infer(requests, None))
            for name, result in zip(names, results, strict=True):
                prompts = scheduler.infer_engine.prompts[f"{mode} {name}"]
                found[mode][name] = (result, prompts)
            assert not scheduler._trajectories and not scheduler._turns
    return found


@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_both_modes_give_the_same(outputs: dict[str, dict[str, Any]], name: str) -> None:
    server, prompts = outputs["server"][name]
    colocate, colocate_prompts = outputs["colocate"][name]
    assert comparable(server) == comparable(colocate)
    assert prompts == colocate_prompts
    assert server.rollout_infos["thyme_end_reason"] == scripts.ENDS[name]


@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_a_later_prompt_is_the_trajectory_so_far(
    outputs: dict[str, dict[str, Any]],
    name: str,
    template: Any,
) -> None:
    output, prompts = outputs["server"][name]
    image_id = template.image_token_id
    (ids,) = output.response_token_ids

    def with_one_placeholder_per_image(prompt: list[int]) -> list[int]:
        pairs = zip(prompt, [None, *prompt], strict=False)
        return [token for token, before in pairs if token != image_id or before != image_id]

    first, *later = [with_one_placeholder_per_image(prompt) for prompt in prompts]
    assert len(later) == output.rollout_infos["num_turns"] - 1
    for prompt in later:
        assert prompt[: len(first)] == first
        assert prompt[len(first) :] == ids[: len(prompt) - len(first)]
    assert len(output.rollout_logprobs[0]) == sum(output.response_loss_mask[0])


def trajectories_left(scheduler: Any) -> int:
    """Return how many trajectories the scheduler still knows anything of."""
    held = (scheduler._trajectories, scheduler._turns, scheduler._placed, scheduler._spans)
    return len({name for names in held for name in names})


def test_an_error_in_one_trajectory_ends_the_batch_with_its_reason(
    template: Any,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastapi import HTTPException

    scheduler = make_scheduler(template)
    good = request_for("picture", picture, "good")
    bad = request_for("answer", picture, "bad")
    bad.images = ["bm90IGEgcGljdHVyZQ=="]
    closed = []
    open_session = scheduler._open_session

    async def open_and_watch(request: Any) -> Any:
        session = await open_session(request)
        close = session.close

        async def close_and_tell() -> None:
            closed.append(request.uuid)
            await close()

        session.close = close_and_tell
        return session

    monkeypatch.setattr(scheduler, "_open_session", open_and_watch)
    start = scheduler.on_trajectory_start
    in_second_turn = asyncio.Event()

    async def start_late(requests: list[Any]) -> None:
        # The other one has a session by then, and waits for its second turn.
        if requests[0] is bad:
            await in_second_turn.wait()
        await start(requests)

    monkeypatch.setattr(scheduler, "on_trajectory_start", start_late)

    async def hold(request: Any, config: Any, **kwargs: Any) -> Any:
        response = await ScriptedEngine.infer_async(scheduler.infer_engine, request, config)
        if len(scheduler.infer_engine.prompts[request.uuid]) > 1:
            in_second_turn.set()
            await asyncio.sleep(60)
        return response

    monkeypatch.setattr(scheduler.infer_engine, "infer_async", hold)

    async def run() -> Any:
        failed = await scheduler.async_infer([good, bad], None)
        assert trajectories_left(scheduler) == 0
        return failed

    failed = pickle.loads(pickle.dumps(asyncio.run(run())))
    assert closed == ["good"]
    with pytest.raises(HTTPException, match="ImageError: image 1 of the row with"):
        list(failed)


def test_a_sandbox_that_fails_once_costs_its_own_trajectory(
    template: Any,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = make_scheduler(template)
    open_session = scheduler._open_session

    async def sometimes(request: Any) -> Any:
        if request.uuid == "bad":
            raise SandboxUnavailableError("no worker")
        return await open_session(request)

    monkeypatch.setattr(scheduler, "_open_session", sometimes)
    requests = [request_for("picture", picture, uuid) for uuid in ("good", "bad")]
    good, bad = asyncio.run(scheduler.async_infer(requests, None))
    assert good.rollout_infos["thyme_end_reason"] == "answer"
    assert bad.rollout_infos["thyme_end_reason"] == "sandbox_failure"
    said = template.tokenizer.decode(bad.response_token_ids[0])
    assert said == bad.messages[-1]["content"] == scripts.crops("a")
    assert set(bad.response_loss_mask[0]) == {1}


def test_requests_as_a_client_sends_them_need_no_name(
    template: Any,
    picture: Path,
) -> None:
    scheduler = make_scheduler(template)
    names = ["three turns", "picture", "error"]
    requests = [asdict(request_for(name, picture, "")) for name in names]
    outputs = asyncio.run(scheduler.async_infer(requests, None))
    assert [o.rollout_infos["num_turns"] for o in outputs] == [3, 2, 2]
    assert len({o.response.id for o in outputs}) == 3


def test_a_batch_that_is_cancelled_leaves_nothing_behind(
    template: Any,
    picture: Path,
) -> None:
    scheduler = make_scheduler(template)

    async def run() -> None:
        requests = [request_for("picture", picture, uuid) for uuid in ("a", "b")]
        batch = asyncio.ensure_future(scheduler.async_infer(requests, None))
        while not scheduler.infer_engine.prompts:  # noqa: ASYNC110 - the engine tells nobody
            await asyncio.sleep(0.01)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert trajectories_left(scheduler) == 0

    asyncio.run(run())
