"""What is tried before the first step; the trainer is a stand-in, the parts of it are real."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_thyme.core.errors import EngineError, JudgeError, SandboxDeadError
from swift_thyme.host import code_sessions
from swift_thyme.rewards.local_judge import LocalJudge
from swift_thyme.rewards.reward_settings import JudgeSettings, RewardSettings
from swift_thyme.rewards.scoring import RewardScorer
from tests.conftest import free_port
from tests.host.test_scheduler import load_template, make_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # importing ms-swift warns about its own dependencies
]
probe = pytest.importorskip("swift_thyme.host.first_probe")


@pytest.fixture(scope="module")
def template() -> Any:
    return load_template()


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampling hook, until the end of the test."""
    from swift.template import Template

    from swift_thyme.host.transformers_hook import install_sampling_hook
    from swift_thyme.sampling.sampling_settings import SamplingSettings

    monkeypatch.setattr(Template, "prepare_generate_kwargs", Template.prepare_generate_kwargs)
    install_sampling_hook(SamplingSettings(adaptive=True))


def trainer_with(template: Any, **parts: Any) -> SimpleNamespace:
    values = {
        "args": SimpleNamespace(use_vllm=False),
        "vllm_mode": "colocate",
        "accelerator": SimpleNamespace(is_main_process=True),
        "engine": SimpleNamespace(template=template),
        "multi_turn_scheduler": make_scheduler(template),
        "reward_funcs": [],
    }
    return SimpleNamespace(**{**values, **parts})


def test_sandbox_and_engine_are_tried_and_the_log_says_so(
    template: Any, hook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(probe, "get_logger", lambda: SimpleNamespace(info=said.append))
    probe.probe_job(trainer_with(template))
    (line,) = said
    assert line.startswith("before the first step: sandbox works (")
    assert ", engine has the hook (" in line


def test_a_template_without_the_hook_is_noticed(template: Any) -> None:
    with pytest.raises(EngineError, match="samples without the sampling hook"):
        probe.probe_job(trainer_with(template))


def test_a_sandbox_that_runs_nothing_is_noticed(
    template: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THYME_SANDBOX_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("THYME_SANDBOX_OPEN_S", "0.1")
    monkeypatch.setattr(code_sessions, "_PAUSE_S", 0.0)
    code_sessions.shared_sessions.cache_clear()
    try:
        with pytest.raises(SandboxDeadError, match="no code can be run"):
            probe.probe_job(trainer_with(template))
    finally:
        code_sessions.shared_sessions.cache_clear()


def test_with_a_server_the_trainer_tries_neither_sandbox_nor_engine(template: Any) -> None:
    probe.probe_job(trainer_with(template, vllm_mode="server", engine=None, args=None))


@pytest.mark.parametrize("main", [True, False])
def test_a_judge_that_is_configured_and_asked_has_to_answer(template: Any, main: bool) -> None:
    from swift_thyme.host.reward_functions import FmtORM, VqaORM

    def trainer(url: str, *kinds: Any) -> Any:
        judge = JudgeSettings(urls=(url,), attempts=1, outage_s=0.1)
        scorer = RewardScorer(RewardSettings(judge=judge))
        rewards = [kind(scorer=scorer) for kind in kinds]
        accelerator = SimpleNamespace(is_main_process=main)
        return trainer_with(
            template, vllm_mode="server", reward_funcs=[print, *rewards], accelerator=accelerator
        )

    gone = f"http://127.0.0.1:{free_port()}/v1"
    with LocalJudge() as judge:
        probe.probe_job(trainer(judge.url, FmtORM, VqaORM))
    probe.probe_job(trainer(gone, FmtORM))
    if not main:
        probe.probe_job(trainer(gone, FmtORM, VqaORM))
        return
    with pytest.raises(JudgeError, match="no judge answers"):
        probe.probe_job(trainer(gone, FmtORM, VqaORM))


def test_a_job_without_our_scheduler_needs_none_of_it(tmp_path: Path) -> None:
    probe.probe_job(SimpleNamespace(multi_turn_scheduler=None, reward_funcs=[]))
    probe.probe_job(SimpleNamespace())
