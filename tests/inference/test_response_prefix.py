"""Response prefixes outside training: the checkpoint's, in transformers and at an endpoint."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.core.errors import SettingsError
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, TextEvent, run_trajectory
from swift_thyme.inference.model import (
    ModelSettings,
    _checkpoint,
    describe,
    open_engine,
)
from swift_thyme.sandbox import SandboxPool
from tests.conftest import TINY_MODEL

from .builders import URL, ScriptedServer, local_engine
from .test_hf_engine import SETTINGS, picture_task, run

# Importing ms-swift warns about its own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool() as pool:
        yield pool


def checkpoint(folder: Path, **arguments: Any) -> ModelSettings:
    """Return the tiny model as a training job with these arguments would have saved it."""
    for file in TINY_MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "args.json").write_text(json.dumps(arguments))
    return replace(SETTINGS, model=str(folder))


@pytest.mark.parametrize(
    ("saved", "given", "wanted"),
    [
        ({}, {}, (None, None)),
        ({"response_prefix": None, "enable_thinking": None}, {}, (None, None)),
        ({"response_prefix": "<think>\n", "enable_thinking": None}, {}, ("<think>\n", None)),
        ({"response_prefix": None, "enable_thinking": True}, {}, (None, True)),
        ({"response_prefix": "<think>\n"}, {"response_prefix": ""}, ("", None)),
        ({"response_prefix": "<think>\n"}, {"enable_thinking": False}, (None, False)),
        ({"enable_thinking": True}, {"enable_thinking": False}, (None, False)),
    ],
)
def test_the_prefix_is_the_checkpoints_where_no_flag_says_otherwise(
    tmp_path: Path, saved: dict[str, Any], given: dict[str, Any], wanted: tuple[Any, Any]
) -> None:
    found = _checkpoint(replace(checkpoint(tmp_path, **saved), **given), tmp_path)
    assert (found.response_prefix, found.enable_thinking) == wanted


def test_flags_that_change_the_prefix_are_part_of_the_models_description() -> None:
    assert describe(replace(SETTINGS, response_prefix="")) != describe(SETTINGS)
    assert describe(replace(SETTINGS, enable_thinking=True)) != describe(SETTINGS)


async def test_transformers_samples_behind_the_prefix_in_every_turn(
    tmp_path: Path, pool: SandboxPool
) -> None:
    """The tiny model begins with ``<think>`` by itself, so all else must stay as it was."""
    plain = local_engine(SETTINGS)
    given = local_engine(checkpoint(tmp_path, response_prefix="<think>"))
    prefix = plain.template.tokenizer.encode("<think>", add_special_tokens=False)
    for index in range(3):
        task, _ = picture_task(index)
        without, behind = [await run(engine, pool, task) for engine in (plain, given)]
        assert without.summary.turns == behind.summary.turns == 2
        assert behind.completion == without.completion
        assert [s.tokens for s in behind.segments[1:]] == [s.tokens for s in without.segments[1:]]
        assert without.sampled_tokens is not None
        assert without.prompt_tokens is not None
        assert behind.sampled_tokens == without.sampled_tokens - len(prefix)
        assert behind.prompt_tokens == without.prompt_tokens + len(prefix)


async def test_the_prefix_of_a_server_begins_each_turn(pool: SandboxPool) -> None:
    server = ScriptedServer(["Add. <code>print(40 + 2)</code>", "</think><answer>42</answer>"])
    engine = await server.engine(response_prefix="<think>\n")
    task, _ = picture_task(0)
    events = [event async for event in run_trajectory(engine, task, pool, LoopSettings())]
    finished = events[-1]
    assert isinstance(finished, FinishedTrajectory)
    turn = "<think>\nAdd. <code>print(40 + 2)</code><sandbox_output>42</sandbox_output>"
    assert finished.completion == f"{turn}</think><answer>42</answer>"
    assert isinstance(events[0], TextEvent)
    assert events[0].text == "<think>\n"
    sent = [body["messages"][-1] for body in server.bodies]
    assert [message["role"] for message in sent] == ["assistant", "assistant"]
    assert [message["content"][0]["text"] for message in sent] == ["<think>\n", turn]
    assert all(body["continue_final_message"] for body in server.bodies)


async def test_a_prefix_with_code_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(SettingsError, match="response_prefix '<code>'"):
        async with open_engine(replace(SETTINGS, response_prefix="<code>")):
            pass


def test_thinking_is_the_servers_business_at_an_endpoint() -> None:
    with pytest.raises(SettingsError, match="--thinking and --endpoint"):
        ModelSettings(endpoint=URL, enable_thinking=True)
