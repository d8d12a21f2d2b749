"""The model class for VLMEvalKit, against a real server of ours with a scripted model.

VLMEvalKit itself brings some fifty packages, so its base class is stood in for by one with the same
retry loop (``scripts/check_vlmeval.sh`` runs the real one).
"""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.sandbox import SandboxPool, SandboxSettings
from tests.inference.builders import image_bytes
from tests.inference.test_loop import ANSWER, CROP
from tests.serve.test_app import serving


class BaseAPI:
    fail_msg = "Failed to obtain answer via API."

    def __init__(self, retry: int = 10, system_prompt: str | None = None, **kwargs: Any) -> None:
        self.retry = retry
        self.system_prompt = system_prompt
        self.default_kwargs = kwargs

    def dump_image(self, line: Any, dataset: str) -> Any:
        return line["paths"]

    def generate(self, message: list[dict[str, str]], **kwargs: Any) -> str:
        for _ in range(self.retry):
            code, answer, _ = self.generate_inner(message, **(self.default_kwargs | kwargs))  # type: ignore[attr-defined]
            if code == 0 and answer != "":
                return str(answer)
        return self.fail_msg


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    base = ModuleType("vlmeval.api.base")
    base.BaseAPI = BaseAPI  # type: ignore[attr-defined]
    for name, module in (
        ("vlmeval", ModuleType("vlmeval")),
        ("vlmeval.api", ModuleType("vlmeval.api")),
        ("vlmeval.api.base", base),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "swift_thyme.evaluation.vlmeval", raising=False)
    yield importlib.import_module("swift_thyme.evaluation.vlmeval")
    sys.modules.pop("swift_thyme.evaluation.vlmeval", None)


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    with SandboxPool(SandboxSettings(workers=1, preload=("numpy", "PIL.Image"))) as pool:
        yield pool


@pytest.fixture
def message(tmp_path: Path) -> list[dict[str, str]]:
    path = tmp_path / "a.png"
    path.write_bytes(image_bytes())
    return [{"type": "image", "value": str(path)}, {"type": "text", "value": "Colour? \n"}]


async def test_an_answer_comes_back_through_the_server(
    adapter: Any, pool: SandboxPool, message: list[dict[str, str]]
) -> None:
    async with serving(pool, [CROP, ANSWER], api_key="k") as (client, script):
        model = adapter.ThymeAPI(f"{client.base_url}/v1", key="k", temperature=0)
        assert await asyncio.to_thread(model.generate, message, dataset="V") == "red"
    assert script.bodies[0]["messages"][1]["content"][1]["text"].lstrip().startswith("Colour?\n")
    assert model.is_api


async def test_no_answer_is_told_from_a_failure(
    adapter: Any, pool: SandboxPool, message: list[dict[str, str]]
) -> None:
    def broken(body: Any) -> httpx.Response:
        return httpx.Response(403, text="no")

    async with serving(pool, ["Nothing to say.", broken, broken]) as (client, _):
        model = adapter.ThymeAPI(f"{client.base_url}/v1", retry=2)
        assert await asyncio.to_thread(model.generate, message) == "Z"
        assert await asyncio.to_thread(model.generate, message) == BaseAPI.fail_msg


async def test_a_wrong_token_stops_the_evaluation(
    adapter: Any, pool: SandboxPool, message: list[dict[str, str]]
) -> None:
    async with serving(pool, [], api_key="k") as (client, _):
        model = adapter.ThymeAPI(f"{client.base_url}/v1", key="wrong")
        with pytest.raises(EngineError, match="bearer token"):
            await asyncio.to_thread(model.generate, message)


def test_the_question_alone_can_be_the_prompt(adapter: Any) -> None:
    model = adapter.ThymeAPI(question_only=True)
    assert model.use_custom_prompt("V")
    line = {"question": "Why?", "paths": ["/a.jpg", "/b.jpg"], "A": "x"}
    assert [part["value"] for part in model.build_prompt(line, "V")] == [
        "/a.jpg",
        "/b.jpg",
        "Why?",
    ]
    assert not adapter.ThymeAPI().use_custom_prompt("V")
