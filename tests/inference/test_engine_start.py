"""An engine that cannot be started: what is said about it, without starting one."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.host import model_loading
from swift_thyme.inference import model
from swift_thyme.inference.model import ModelSettings


def test_an_error_of_ours_is_its_line_and_one_of_the_engine_has_the_log_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "_quiet", True)
    with pytest.raises(EngineError) as ours, model._own_log():
        os.write(2, b"words of a library\n")
        raise EngineError("vLLM needs more memory")
    assert str(ours.value) == "vLLM needs more memory"
    with pytest.raises(EngineError) as theirs, model._own_log():
        os.write(2, b"ValueError: the true reason\n")
        raise RuntimeError("Engine core initialization failed")
    assert "initialization failed" in str(theirs.value)
    assert str(theirs.value).endswith("ValueError: the true reason")


class Started(Exception):
    """Stands in for an engine."""


@pytest.mark.parametrize(
    ("given", "copies", "gpu", "expected"),
    [
        ({"a": 1}, 1, True, {"a": 1}),
        ({"a": 1}, 4, True, {"a": 1, "data_parallel_size": 4}),
        # On a processor, a seeded request whose prompt comes in pieces would end vLLM.
        ({"a": 1}, 1, False, {"a": 1, "enable_chunked_prefill": False}),
        ({"enable_chunked_prefill": True}, 1, False, {"enable_chunked_prefill": True}),
    ],
)
def test_what_vllm_is_told_beside_the_flags(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    copies: int,
    gpu: bool,
    expected: dict[str, Any],
) -> None:
    seen = []

    def start(checkpoint: Any, template: Any, sampling: Any, options: Any, more: Any) -> Any:
        seen.append(more)
        raise Started

    monkeypatch.setattr(model, "_quiet", False)  # commands that ran in this process set it
    monkeypatch.setattr(model_loading, "start_vllm", start)
    monkeypatch.setattr(model_loading, "load_template", lambda *_: None)
    monkeypatch.setattr(model, "_total_tokens", lambda *_: 1024)
    monkeypatch.setattr(model, "has_gpu", lambda: gpu)
    settings = ModelSettings(
        model="m", engine="vllm", data_parallel_size=copies, engine_kwargs=given
    )
    with pytest.raises(Started):
        model._open_vllm(settings, SimpleNamespace())  # type: ignore[arg-type]
    assert seen == [expected]
