"""Models by name where the hub does not answer, or says no. Only the network is faked."""

import sys
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.host import model_loading
from swift_thyme.inference.hub import chosen_hub, find_model

NAME = "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USE_HF", "MODELSCOPE_OFFLINE", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def cache(monkeypatch: pytest.MonkeyPatch, package: str, folder: str | None) -> None:
    """Let a hub's client find a folder in its cache, or nothing."""

    def snapshot_download(name: str, local_files_only: bool) -> str:
        assert name == NAME and local_files_only
        if folder is None:
            raise ValueError("not in the cache")
        return folder

    monkeypatch.setitem(sys.modules, package, SimpleNamespace(snapshot_download=snapshot_download))


def silent(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("Name or service not known")


def answers(request: httpx.Request) -> httpx.Response:
    return httpx.Response(403)


def test_without_a_network_one_line_names_the_hub_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache(monkeypatch, "modelscope", None)
    with pytest.raises(EngineError) as caught:
        find_model(NAME, None, httpx.MockTransport(silent))
    said = str(caught.value)
    assert "\n" not in said
    for words in (f"--model {NAME}", "https://www.modelscope.cn", "Name or service", "--use-hf"):
        assert words in said


def test_what_was_fetched_before_is_used_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache(monkeypatch, "modelscope", "/cache/model")
    assert find_model(NAME, False, httpx.MockTransport(silent)) == "/cache/model"
    monkeypatch.setenv("MODELSCOPE_OFFLINE", "1")
    assert find_model(NAME, False, httpx.MockTransport(answers)) == "/cache/model"


def test_a_hub_that_answers_is_asked_and_its_refusal_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_loading, "fetch_model", lambda name, use_hf: f"/{name}/{use_hf}")
    assert find_model(NAME, None, httpx.MockTransport(answers)) == f"/{NAME}/None"

    def refuse(name: str, use_hf: Any) -> str:
        raise RuntimeError("404: no such\nrepository")

    monkeypatch.setattr(model_loading, "fetch_model", refuse)
    with pytest.raises(EngineError, match="ModelScope gives no such model: RuntimeError: 404: no"):
        find_model(NAME, None, httpx.MockTransport(answers))


def test_a_certificate_that_only_the_hubs_client_knows_is_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    monkeypatch.setattr(model_loading, "fetch_model", lambda name, use_hf: "/fetched")
    assert find_model(NAME, None, httpx.MockTransport(unknown)) == "/fetched"


def test_the_hub_is_that_of_the_flag_and_else_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chosen_hub(None).name == "ModelScope"
    assert chosen_hub(True).name == "Hugging Face"
    monkeypatch.setenv("USE_HF", "1")
    assert chosen_hub(None).name == "Hugging Face"
    assert chosen_hub(False).name == "ModelScope"
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "hub.example")
    assert chosen_hub(False).url == "https://hub.example"
