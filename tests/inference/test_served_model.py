"""What a checkpoint says about its prompt holds at an endpoint of this host too."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.inference.model import ModelSettings, known_question, open_engine, system_prompt
from swift_thyme.inference.served_model import model_folder
from swift_thyme.inference.task import default_system_prompt
from swift_thyme.testbed.data import QUESTION, SYSTEM_PROMPT
from tests.conftest import TINY_MODEL

ENTRIES: list[Any] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": ENTRIES}).encode()
        self.send_response(200 if self.headers["Authorization"] == "Bearer key" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()
    ENTRIES.clear()


def settings(endpoint: str, model: str | None = None) -> ModelSettings:
    return ModelSettings(endpoint=endpoint, model=model, api_key="key")


@pytest.mark.parametrize(
    "entry", [{"id": "tiny", "root": str(TINY_MODEL)}, {"id": str(TINY_MODEL)}]
)
@pytest.mark.parametrize("named", [False, True])
def test_the_tiny_model_behind_a_server_gets_its_own_system_prompt(
    endpoint: str, entry: dict[str, str], named: bool
) -> None:
    ENTRIES.append(entry)
    given = settings(endpoint, entry["id"] if named else None)
    assert model_folder(given) == TINY_MODEL
    assert system_prompt(given) == SYSTEM_PROMPT
    assert known_question(given) == QUESTION


def test_a_checkpoint_behind_a_server_gets_the_prompt_it_was_trained_with(
    endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "args.json").write_text('{"system": "Mine."}')
    ENTRIES.append({"id": "mine", "root": str(tmp_path)})
    assert system_prompt(settings(endpoint)) == "Mine."
    assert system_prompt(settings(endpoint, "other")) == default_system_prompt()


@pytest.mark.parametrize("entries", [[], ["x"], [{}], [{"id": 5, "root": None}], [{"id": "a"}]])
def test_a_server_that_names_no_folder_gets_the_published_prompt(
    endpoint: str, entries: list[Any]
) -> None:
    ENTRIES.extend(entries)
    assert model_folder(settings(endpoint)) is None
    assert system_prompt(settings(endpoint)) == default_system_prompt()


class Closed:
    async def close(self) -> None:
        """Have nothing to close."""


async def test_its_response_prefix_is_put_in_front_unless_a_flag_gives_another(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "args.json").write_text('{"response_prefix": "<think>"}')
    ENTRIES.append({"id": "mine", "root": str(tmp_path)})
    seen = []

    async def connect(settings: ModelSettings) -> Closed:
        seen.append(settings.response_prefix)
        return Closed()

    monkeypatch.setattr("swift_thyme.inference.endpoint_group.connect_all", connect)
    for given in (settings(endpoint), replace(settings(endpoint), response_prefix="")):
        async with open_engine(given):
            pass
    assert seen == ["<think>", ""]


def test_a_server_elsewhere_or_a_silent_one_is_not_asked_for_folders() -> None:
    for url in ("http://server.invalid/v1", "http://127.0.0.1:9/v1", "nonsense"):
        assert model_folder(settings(url)) is None
