"""A trainer asks for the engine of its server before it sends weights; the client is a stand-in."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import EngineError
from swift_thyme.host import server_watch
from swift_thyme.host.server_watch import ENGINE_DIED, watch_server


class Client:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_model_state_keys(self) -> list[str]:
        if isinstance(self.answer, Exception):
            raise self.answer
        names: list[str] = self.answer
        return names


def watched(answer: Any, main: bool = True) -> tuple[Any, list[Any]]:
    moved: list[Any] = []
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=main),
        vllm_client=Client(answer),
        _move_model_to_vllm=lambda *a, **k: moved.append((a, k)),
    )
    watch_server(trainer)
    return trainer, moved


def test_weights_go_to_an_engine_that_is_there() -> None:
    trainer, moved = watched(["model.weight"])
    trainer._move_model_to_vllm(skip_async_check=True)
    assert moved == [((), {"skip_async_check": True})]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [([], ENGINE_DIED), (ConnectionError("refused"), "swift rollout does not answer")],
)
def test_no_weights_go_to_an_engine_that_is_gone(answer: Any, reason: str) -> None:
    trainer, moved = watched(answer)
    with pytest.raises(EngineError) as caught:
        trainer._move_model_to_vllm()
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    assert moved == []


def test_an_engine_that_dies_while_weights_are_sent_is_the_reason() -> None:
    trainer, _ = watched(["model.weight"])

    def fail() -> None:
        trainer.vllm_client.answer = []
        raise RuntimeError("Failed to broadcast barrier_id")

    trainer._move_model_to_vllm = fail
    watch_server(trainer)
    with pytest.raises(EngineError, match="has died or hangs"):
        trainer._move_model_to_vllm()


def test_an_engine_that_never_answers_has_died_too(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, moved = watched(["model.weight"])
    over = threading.Event()
    monkeypatch.setattr(server_watch, "_ANSWER_S", 0.01)
    monkeypatch.setattr(trainer.vllm_client, "get_model_state_keys", over.wait)
    with pytest.raises(EngineError, match="has died or hangs"):
        trainer._move_model_to_vllm()
    over.set()
    assert moved == []


def test_another_error_while_weights_are_sent_stays_what_it_is() -> None:
    trainer, _ = watched(["model.weight"])

    def fail() -> None:
        raise RuntimeError("out of memory")

    trainer._move_model_to_vllm = fail
    watch_server(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer._move_model_to_vllm()


def test_a_trainer_that_waits_for_a_dead_engine_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, _ = watched(["model.weight"])
    ended = threading.Event()
    monkeypatch.setattr(server_watch, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(server_watch.os, "_exit", lambda status: ended.set())

    def wait_in_nccl() -> None:
        trainer.vllm_client.answer = []
        assert ended.wait(60)

    trainer._move_model_to_vllm = wait_in_nccl
    watch_server(trainer)
    trainer._move_model_to_vllm()
    assert ENGINE_DIED in caplog.text


def test_the_main_process_alone_asks() -> None:
    trainer, moved = watched([], main=False)
    trainer._move_model_to_vllm()
    assert len(moved) == 1
