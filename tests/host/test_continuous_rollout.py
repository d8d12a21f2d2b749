"""Continuous rollouts against ms-swift's loop, on the real scheduler, template and sandbox.

Only vLLM is absent: its place takes an engine that samples one token of each request at a step.
``tests/e2e/test_parity.py`` and ``tests/e2e/test_continuous_jobs.py`` have real engines.
"""

import asyncio
import contextlib
import copy
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from swift_thyme.core.errors import SettingsError
from swift_thyme.host.continuous_rollout import roll_out, use_continuous_rollouts
from swift_thyme.host.engine_feed import EngineFeed
from swift_thyme.host.step_times import StepTimes
from swift_thyme.host.turn_preparation import Turn, TurnPreparation
from swift_thyme.sandbox.processes import descendants
from tests.e2e import parity_scripts as scripts
from tests.host.test_scheduler import load_template
from tests.host.test_server_rollout import (
    ScriptedEngine,
    comparable,
    in_colocate_mode,
    make_scheduler,
    request_for,
    trajectories_left,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]

SHORT = [name for name in scripts.SCRIPTS if not name.startswith(("untrained", "loop"))]
"""Scripts of the usual settings; loops need shorter limits of this process."""


@pytest.fixture(scope="module")
def template() -> Any:
    template = load_template()
    # As the engine has it: a picture is one id of the prompt.
    template.set_mode("vllm")
    return template


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.jpg"
    Image.new("RGB", (448, 448), (10, 120, 200)).save(path)
    return path


class Kind(Enum):
    """What an engine gives of a turn, by vLLM's names."""

    CUMULATIVE = 0
    FINAL_ONLY = 2


class SteppedEngine(ScriptedEngine):
    """Takes turns while others run, and samples a token of each at a step."""

    def __init__(self, template: Any) -> None:
        super().__init__(copy.copy(template))
        self.engine = self
        processor = SimpleNamespace(preprocess=lambda prompt: prompt)
        self.input_processor = SimpleNamespace(input_preprocessor=processor)
        self.forgotten = 0
        self._request_count = 0
        self.steps = 0
        self.feed: Any = None
        self.at_step: Callable[[], None] = lambda: None
        self.added: list[list[int]] = []
        self.left: dict[str, Any] = {}

    def _get_grpo_lora_request(self) -> None:
        return None

    def set_default_max_tokens(self, config: Any, inputs: Any) -> None:
        assert threading.current_thread().name.startswith("swift-thyme-prepare")

    def _prepare_generation_config(self, config: Any) -> Any:
        return SimpleNamespace(output_kind=Kind.CUMULATIVE)

    def _add_stop_words(self, params: Any, config: Any) -> None:
        pass

    def _add_request(self, inputs: Any, params: Any, name: str, adapter_request: Any) -> None:
        self.engine.add_request(name, inputs, params)

    def add_request(self, name: str, inputs: Any, params: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        response = self.answer(list(inputs["input_ids"]), name)
        self.added.append(response.prompt_token_ids)
        n_tokens = len(response.choices[0].token_ids)
        final_only = params.output_kind is Kind.FINAL_ONLY
        self.left[name] = SimpleNamespace(response=response, n_left=n_tokens, final_only=final_only)

    def step(self) -> list[Any]:
        self.steps += 1
        self.at_step()
        outputs = []
        for name, request in list(self.left.items()):
            request.n_left -= 1
            if not request.n_left:
                del self.left[name]
            elif request.final_only:
                continue
            (choice,) = request.response.choices
            outputs.append(
                SimpleNamespace(
                    request_id=name,
                    finished=not request.n_left,
                    response=request.response,
                    outputs=[SimpleNamespace(finish_reason=choice.finish_reason)],
                    n_sampled=len(choice.token_ids) - request.n_left,
                )
            )
        return outputs

    def reset_mm_cache(self) -> None:
        self.forgotten += 1

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            del self.left[name]

    def _create_chat_completion_response(self, output: Any, *_: Any) -> Any:
        (choice,) = output.response.choices
        choice.finish_reason = output.outputs[0].finish_reason
        if output.n_sampled < len(choice.token_ids):
            choice.token_ids = choice.token_ids[: output.n_sampled]
            choice.logprobs["content"] = choice.logprobs["content"][: output.n_sampled]
            choice.message.content = self.tokenizer.decode(choice.token_ids)
        return output.response


def make_requests(names: list[str], picture: Path) -> list[Any]:
    return [request_for(name, picture, f"{place} {name}") for place, name in enumerate(names)]


def nothing_is_left(scheduler: Any, engine: SteppedEngine) -> bool:
    names = {thread.name for thread in threading.enumerate()}
    threads = [name for name in names if name.startswith(("swift-thyme-ro", "swift-thyme-pre"))]
    return not (engine.left or trajectories_left(scheduler) or threads)


def test_the_same_comes_out_as_turn_by_turn(template: Any, picture: Path) -> None:
    requests = make_requests(SHORT, picture)
    expected = in_colocate_mode(make_scheduler(template), requests)
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    found = roll_out(scheduler, engine, make_requests(SHORT, picture), None)
    for name, one, other in zip(SHORT, found, expected, strict=True):
        assert comparable(one) == comparable(other), name
        assert one.rollout_infos["thyme_end_reason"] == scripts.ENDS[name]
    assert nothing_is_left(scheduler, engine)


def test_ready_turns_wait_for_others_as_long_as_many_run(template: Any, picture: Path) -> None:
    requests = make_requests(SHORT, picture)
    expected = in_colocate_mode(make_scheduler(template), requests)
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    engine.at_step = lambda: time.sleep(0.002)
    added: list[tuple[int, int]] = []
    add = engine.add_request

    def note_and_add(*arguments: Any) -> None:
        added.append((engine.steps, len(engine.left)))
        add(*arguments)

    engine.add_request = note_and_add
    found = roll_out(scheduler, engine, make_requests(SHORT, picture), None, running_per_step=1)
    for name, one, other in zip(SHORT, found, expected, strict=True):
        assert comparable(one) == comparable(other), name
    assert nothing_is_left(scheduler, engine)
    assert max(running for _, running in added) >= 4
    for (earlier, _), (later, running) in itertools.pairwise(added):
        assert later == earlier or later - earlier >= running


def test_a_trajectory_goes_on_while_another_is_in_its_first_turn(
    template: Any, picture: Path
) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    ended: list[tuple[str, int]] = []
    on_turn_end = scheduler.on_turn_end

    async def watch(request: Any, choice: Any, turn: int) -> Any:
        result = await on_turn_end(request, choice, turn)
        ended.append((request.uuid, turn))
        return result

    scheduler.on_turn_end = watch

    # The long one waits for the short one: with a barrier between turns neither would go on.
    def hold_the_long_one() -> None:
        long = [r for r in engine.left.values() if len(r.response.choices[0].token_ids) > 150]
        if ("1 three turns", 3) not in ended:
            for request in long:
                request.n_left += 1
            if len(long) == len(engine.left):
                time.sleep(0.001)

    engine.at_step = hold_the_long_one
    outputs = roll_out(scheduler, engine, make_requests(["long", "three turns"], picture), None)
    assert ended == [*[("1 three turns", turn) for turn in (1, 2, 3)], ("0 long", 1)]
    assert [o.rollout_infos["num_turns"] for o in outputs] == [1, 3]


def test_first_turns_are_added_in_the_order_of_the_requests(template: Any, picture: Path) -> None:
    engine = SteppedEngine(template)
    encode, late = engine.template.encode, threading.Event()
    requests = make_requests(["answer", "no answer", "wrong answer"], picture)

    def slow(request: Any, **kwargs: Any) -> Any:
        if request.uuid.startswith("0"):
            assert late.wait(60)
        encoded = encode(request, **kwargs)
        if request.uuid.startswith("2"):
            late.set()
        return encoded

    engine.template.encode = slow
    roll_out(make_scheduler(template), engine, requests, None)
    said = [scripts.name_in(template.tokenizer.decode(ids)) for ids in engine.added]
    assert said == ["answer", "no answer", "wrong answer"]


def test_an_error_in_a_trajectory_ends_the_rollout_and_leaves_nothing(
    template: Any, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
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

    def guard(ids: Any) -> None:
        if scheduler._trajectories["1 three turns"].turn == 2:
            raise SettingsError("the engine samples without the hook")

    monkeypatch.setattr(scheduler, "_open_session", open_and_watch)
    monkeypatch.setattr(scheduler, "_check_guard", guard)
    requests = make_requests(["long", "three turns", "picture"], picture)
    with pytest.raises(SettingsError, match="without the hook"):
        roll_out(scheduler, engine, requests, None)
    assert "1 three turns" in closed
    assert nothing_is_left(scheduler, engine)


@pytest.mark.parametrize("error", [RuntimeError("the device is lost"), KeyboardInterrupt()])
def test_an_engine_that_fails_while_code_runs_leaves_nothing(
    template: Any, picture: Path, error: BaseException
) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    runs_code = threading.Event()

    async def open_and_stay(request: Any) -> Any:
        runs_code.set()
        await asyncio.sleep(600)

    def fail_then() -> None:
        # The long one goes on for as long as the other one needs to get there.
        for request in engine.left.values():
            request.n_left += len(request.response.choices[0].token_ids) > 150
        if runs_code.is_set():
            raise error

    scheduler._open_session = open_and_stay
    engine.at_step = fail_then
    with pytest.raises(type(error)):
        roll_out(scheduler, engine, make_requests(["long", "picture"], picture), None)
    assert nothing_is_left(scheduler, engine)


def test_the_engine_goes_on_while_a_picture_is_processed(template: Any, picture: Path) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    processor = engine.input_processor.input_preprocessor
    steps: list[int] = []
    is_over = threading.Event()

    def process(inputs: Any) -> Any:
        # The second turn of a trajectory: the other one is sampled meanwhile.
        if len(inputs["images"]) > 1 and not steps:
            begin = engine.steps
            while engine.steps < begin + 20:
                time.sleep(0.001)
            steps.append(engine.steps - begin)
            is_over.set()
        return inputs

    def stretch() -> None:
        for request in engine.left.values():
            request.n_left += len(request.response.choices[0].token_ids) > 150 and not (
                is_over.is_set()
            )

    processor.preprocess = process
    engine.at_step = stretch
    roll_out(scheduler, engine, make_requests(["long", "picture"], picture), None)
    assert steps[0] >= 20
    assert engine.forgotten == 0
    assert nothing_is_left(scheduler, engine)


def test_a_picture_that_cannot_be_processed_ends_the_rollout(template: Any, picture: Path) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)

    def process(inputs: Any) -> Any:
        if len(inputs["images"]) > 1:
            raise ValueError("the processor has no room")
        return inputs

    engine.input_processor.input_preprocessor.preprocess = process
    with pytest.raises(ValueError, match="has no room"):
        roll_out(scheduler, engine, make_requests(["long", "picture"], picture), None)
    assert nothing_is_left(scheduler, engine)


@pytest.mark.parametrize("taken", [True, False])
def test_turns_that_are_not_added_leave_no_trace_in_the_engines_caches(
    template: Any, taken: bool
) -> None:
    engine = SteppedEngine(template)
    preparation = TurnPreparation(engine, ["a"], ends_early=False)
    loop = asyncio.new_event_loop()
    preparation.put(Turn("a", {"input_ids": [1, 2]}, None, loop.create_future()))
    one = preparation.ready.get(timeout=30)
    if not taken:
        preparation.ready.put(one)
    preparation.stop()
    loop.close()
    assert engine.forgotten == (not taken)
    assert preparation.ready.empty()


def workers() -> list[int]:
    """Return the worker processes of this one's sandbox."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if b"sandbox.worker" in command:
            found.append(pid)
    return found


def test_a_deadline_ends_what_is_unfinished_and_keeps_what_was_sampled(
    template: Any, picture: Path
) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    has_answered = threading.Event()
    on_turn_end = scheduler.on_turn_end

    async def watch(request: Any, choice: Any, turn: int) -> Any:
        result = await on_turn_end(request, choice, turn)
        if request.uuid == "1 answer":
            has_answered.set()
        return result

    # Time stands still until the short one is over and the long one is long, and is up then.
    def stretch() -> None:
        for request in engine.left.values():
            long = len(request.response.choices[0].token_ids) > 60
            request.n_left += long and request.n_left < 10
        if has_answered.is_set() and engine.steps > 120:
            engine.feed._end = 0.0

    scheduler.on_turn_end = watch
    engine.at_step = stretch
    make = EngineFeed.__init__

    def remember(feed: EngineFeed, *args: Any, **kwargs: Any) -> None:
        make(feed, *args, **kwargs)
        engine.feed = feed

    requests = make_requests(["long", "answer", "three turns"], picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineFeed, "__init__", remember)
        outputs = roll_out(scheduler, engine, requests, None, deadline_s=600.0)
    reasons = [o.rollout_infos["thyme_end_reason"] for o in outputs]
    assert reasons[:2] == ["deadline", "answer"]
    assert reasons[2] in ("deadline", "answer")
    long, short, _ = outputs
    assert long.response.choices[0].finish_reason == "length"
    assert short.response.choices[0].finish_reason == "stop"
    assert sum(long.response_loss_mask[0]) == len(long.response_token_ids[0]) >= 100
    assert len(long.rollout_logprobs[0]) == len(long.response_token_ids[0])
    assert nothing_is_left(scheduler, engine)


def test_a_deadline_that_is_over_at_once_leaves_a_token_of_each(
    template: Any, picture: Path
) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    requests = make_requests(["long", "picture"], picture)
    outputs = roll_out(scheduler, engine, requests, None, deadline_s=0.0)
    assert {o.rollout_infos["thyme_end_reason"] for o in outputs} == {"deadline"}
    assert [len(o.response_token_ids[0]) for o in outputs] == [1, 1]
    assert nothing_is_left(scheduler, engine)


def test_a_killed_worker_costs_its_own_trajectory(template: Any, picture: Path) -> None:
    scheduler, engine = make_scheduler(template), SteppedEngine(template)
    open_session = scheduler._open_session

    async def open_and_kill(request: Any) -> Any:
        session = await open_session(request)
        if request.uuid.startswith("0"):
            for pid in workers():
                with contextlib.suppress(ProcessLookupError):  # a spare one may end by itself
                    os.kill(pid, signal.SIGKILL)
        return session

    scheduler._open_session = open_and_kill
    outputs = roll_out(scheduler, engine, make_requests(["picture", "long"], picture), None)
    reasons = [o.rollout_infos["thyme_end_reason"] for o in outputs]
    assert reasons == ["sandbox_failure", "length_limit"]
    assert nothing_is_left(scheduler, engine)


def make_trainer(scheduler: Any, **more: Any) -> SimpleNamespace:
    theirs = object()
    fields = {
        "use_fast_infer": True,
        "vllm_mode": "colocate",
        "vllm_tensor_parallel_size": 1,
        "multi_turn_scheduler": scheduler,
        "_infer_single_or_multi_turn": theirs,
        "theirs": theirs,
    }
    return SimpleNamespace(**{**fields, **more})


@pytest.mark.parametrize(
    ("more", "choice", "replaced"),
    [
        ({}, "", True),
        ({}, "continuous", True),
        ({}, "turns", False),
        ({"use_fast_infer": False}, "", False),
        ({"vllm_mode": "server"}, "", False),
        ({"vllm_tensor_parallel_size": 2}, "", False),
        ({"multi_turn_scheduler": object()}, "", False),
    ],
)
def test_the_loop_is_replaced_where_the_engine_can_be_fed(
    template: Any,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
    choice: str,
    replaced: bool,
) -> None:
    monkeypatch.setenv("THYME_ROLLOUT", choice)
    trainer = make_trainer(make_scheduler(template), **more)
    use_continuous_rollouts(trainer, StepTimes())
    assert (trainer._infer_single_or_multi_turn is not trainer.theirs) == replaced


def test_a_choice_that_does_not_exist_is_refused(
    template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_ROLLOUT", "steps")
    with pytest.raises(SettingsError, match=r"THYME_ROLLOUT.*continuous or turns"):
        use_continuous_rollouts(make_trainer(make_scheduler(template)), StepTimes())


def test_a_feed_without_work_waits_and_wakes_up_at_the_end(template: Any) -> None:
    engine = SteppedEngine(template)
    until: Future[None] = Future()
    threading.Timer(0.1, until.set_result, [None]).start()
    times = StepTimes()
    EngineFeed(engine, [], times=times).drive(until)
    assert times.take()["encoding"] > 0
    assert engine.steps == 0
