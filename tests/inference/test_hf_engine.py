"""The transformers engine with the embedded tiny model: real weights, real sandbox."""

import asyncio
import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest

from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, run_trajectory
from swift_thyme.inference.model import ModelSettings, system_prompt
from swift_thyme.inference.prompt_images import read_image
from swift_thyme.inference.task import Task, make_task
from swift_thyme.sandbox import SandboxPool
from swift_thyme.testbed.data import QUESTION, SYSTEM_PROMPT, picture_rng
from swift_thyme.testbed.task import make_picture
from tests.conftest import TINY_MODEL
from tests.inference.builders import local_engine

# Importing ms-swift warns about its own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = ModelSettings(model=str(TINY_MODEL), engine="transformers", max_model_len=1024)


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool() as pool:
        yield pool


@pytest.fixture(scope="module")
def engine() -> Any:
    return local_engine(SETTINGS)


def picture_task(index: int, *, n_images: int = 1) -> tuple[Task, str]:
    images, number = [], ""
    for place in range(n_images):
        picture = make_picture(picture_rng(11, "eval", index + place))
        buffer = io.BytesIO()
        picture.image().save(buffer, format="JPEG", quality=95)
        images.append(read_image(buffer.getvalue(), place))
        number = number or picture.number
    system = system_prompt(SETTINGS)
    return make_task(QUESTION, images, system=system, task_id=str(index)), number


async def run(engine: Any, pool: SandboxPool, task: Task, **settings: Any) -> FinishedTrajectory:
    async for event in run_trajectory(engine, task, pool, LoopSettings(**settings), stream=False):
        last = event
    assert isinstance(last, FinishedTrajectory)
    return last


def test_the_tiny_model_needs_no_flags() -> None:
    assert system_prompt(SETTINGS) == SYSTEM_PROMPT


async def test_the_tiny_model_reads_plates_with_its_tool(engine: Any, pool: SandboxPool) -> None:
    tasks = [picture_task(i) for i in range(16)]
    found = await asyncio.gather(*(run(engine, pool, task) for task, _ in tasks))
    right = [f.answer == number for f, (_, number) in zip(found, tasks, strict=True)]
    assert sum(right) >= 11
    assert all(f.summary.tool_used for f in found)
    assert all(len(f.segments[2].images) == 1 for f in found)


async def test_a_trajectory_is_the_same_alone_and_in_a_batch(
    engine: Any, pool: SandboxPool
) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=20, seed=5)
    tasks = [picture_task(i)[0] for i in range(4)]
    alone = [await run(engine, pool, task, sampling=sampling) for task in tasks[:2]]
    batch = await asyncio.gather(*(run(engine, pool, task, sampling=sampling) for task in tasks))
    assert [f.completion for f in alone] == [f.completion for f in batch[:2]]
    other = await run(engine, pool, tasks[0], sampling=Sampling(temperature=0.7, seed=6))
    assert other.completion != alone[0].completion


async def test_a_turn_is_encoded_as_in_training(engine: Any, pool: SandboxPool) -> None:
    task, _ = picture_task(0)
    conversation = await engine.begin(task)
    encoded_turns: list[Any] = []
    encode = type(conversation)._encode

    def spy(self: Any) -> Any:
        encoded = encode(self)
        encoded_turns.append((list(self.turn_ids), encoded))
        return encoded

    type(conversation)._encode = spy
    try:
        finished = await run(engine, pool, task)
    finally:
        type(conversation)._encode = encode
    turn_ids, encoded = encoded_turns[-1]
    returned = [image.data for piece in finished.segments for image in piece.images]
    assert len(returned) == 1
    template = copy.copy(engine.template)
    template.set_mode("train")
    template.max_length = None
    row = {
        "messages": [*task.messages, {"role": "assistant", "content": turn_ids}],
        # The files as they are: what was resized once must come out as from the file.
        "images": [{"bytes": data, "path": None} for data in (task.images[0].data, *returned)],
    }
    trained = template.encode(row)
    n = len(encoded["input_ids"])
    assert list(trained["input_ids"])[:n] == list(encoded["input_ids"])
    assert encoded["input_ids"].count(template.image_token_id) == 32
    assert (trained["pixel_values"] == encoded["pixel_values"]).all()


async def test_lengths_are_those_of_the_expanded_ids(engine: Any, pool: SandboxPool) -> None:
    task, _ = picture_task(1)
    finished = await run(engine, pool, task)
    conversation = await engine.begin(task)
    assert finished.prompt_tokens == len(conversation._encode()["input_ids"])
    # One image of 16 visual tokens, its two markers and the two tags.
    assert finished.segments[2].tokens == 20
    assert sum(p.tokens or 0 for p in finished.segments if p.kind.value != "observation") == (
        finished.sampled_tokens
    )


async def test_several_images_are_taken_in_order(engine: Any) -> None:
    task, _ = picture_task(2, n_images=3)
    conversation = await engine.begin(task)
    assert len(conversation.images) == 3
    assert conversation._encode()["input_ids"].count(engine.template.image_token_id) == 48


async def test_limits_cut_a_trajectory(engine: Any, pool: SandboxPool) -> None:
    finished = await run(engine, pool, picture_task(3)[0], max_tokens=10)
    assert finished.sampled_tokens == 10
    assert finished.summary.end_reason is not None
    assert finished.summary.end_reason.value == "length_limit"
    assert finished.answer is None


async def test_placeholders_are_never_sampled(engine: Any) -> None:
    sampling = Sampling(temperature=10.0, seed=1)
    task, _ = picture_task(4)
    conversation = await engine.begin(task)
    ids: list[int] = []
    async for chunk in conversation.sample(sampling, seed=1, max_tokens=150, stream=False):
        ids.extend(chunk.token_ids)
    vocabulary = engine.template.tokenizer.get_vocab()
    forbidden = {vocabulary[t] for t in ("<|image_pad|>", "<|vision_start|>", "<|video_pad|>")}
    assert len(ids) > 20
    assert not forbidden & set(ids)
