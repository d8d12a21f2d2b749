"""The rewards as ms-swift calls them; only the judge is local."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from swift_thyme.core.rollout_infos import read_infos
from swift_thyme.core.samples import Sample
from swift_thyme.rewards.local_judge import Fault, LocalJudge
from swift_thyme.rewards.reward_settings import JudgeSettings, RewardScale, RewardSettings
from swift_thyme.rewards.scoring import RewardScorer, executed_share
from tests.rewards.builders import completion, make_scorer

pytest.importorskip("swift")

NAMES = {
    "fmt_orm": "FmtORM",
    "vqa_orm": "VqaORM",
    "cst_orm": "CstORM",
    "code_orm": "CodeORM",
    "code_orm_llm": "CodeLlmORM",
    "vqa_prm": "VqaPRM",
    "code_prm": "CodePRM",
}
CODE = "<code>\n```python\nprint(1)\n```\n</code><sandbox_output>1</sandbox_output>"
WITH_CODE = f"<think>Let me look. {CODE} So it is grey.</think><answer>grey</answer>"


@pytest.fixture(scope="module")
def orms() -> Any:
    with warnings.catch_warnings():
        # What ms-swift's own imports warn of is not ours to fix.
        warnings.simplefilter("ignore")
        from swift_thyme.host import reward_functions as module
    return module


@pytest.fixture
def judge() -> Iterator[LocalJudge]:
    with LocalJudge() as server:
        yield server


def columns(count: int, **extra: Sequence[Any]) -> dict[str, Any]:
    """Return what ms-swift passes besides the completions, for text-only rows."""
    return {
        "trainer_state": object(),
        "messages": [[{"role": "user", "content": "What colour is it?"}]] * count,
        "prompt_id": ["prompt_0"] * count,
        "request_id": [f"r{index}" for index in range(count)],
        "finish_reason": ["stop"] * count,
        "is_truncated": [False] * count,
        "rollout_infos": [{}] * count,
        "solution": ["grey"] * count,
        **extra,
    }


def together(rewards: Sequence[Any], completions: Sequence[str], **extra: Any) -> list[Any]:
    """Run rewards as one step does: the asynchronous ones together under a fresh loop."""

    async def gather() -> list[Any]:
        passed = columns(len(completions), **extra)
        return await asyncio.gather(*(reward(completions, **passed) for reward in rewards))

    return asyncio.run(gather())


def test_registration_adds_the_seven_published_names(orms: Any) -> None:
    from swift.rewards import orms as known

    from swift_thyme.host.register import register_rewards

    register_rewards()
    register_rewards()
    assert {name: known[name].__name__ for name in NAMES} == NAMES


def test_importing_the_rewards_does_not_import_ms_swift_or_torch() -> None:
    check = (
        "import sys, swift_thyme.rewards, swift_thyme.rewards.scoring;"
        "sys.exit(any(name in sys.modules for name in ('swift', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0


def test_every_reward_can_be_made_and_called_as_ms_swift_does(
    orms: Any, judge: LocalJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    orms.shared_scorer.cache_clear()
    monkeypatch.setenv("THYME_JUDGE_URLS", judge.url)
    orms.add_reward_functions()
    functions = [orms.orms[name](args=None) for name in NAMES]
    monkeypatch.delenv("THYME_JUDGE_URLS")
    info = {"thyme_statuses": ["ok"], "thyme_blocks": 1, "thyme_images": 0}
    samples = [
        GRPOSample(
            messages=[
                {"role": "user", "content": "What colour is it?"},
                {"role": "assistant", "content": text},
            ],
            extra={"solution": "grey"},
            rollout_infos=info if "<code>" in text else {},
        )
        for text in (WITH_CODE, completion("some colour"))
    ]
    rewards = compute_rewards_per_func(samples, functions, None, torch.device("cpu"))
    found = [[round(value, 4) for value in row] for row in rewards.tolist()]
    assert found == [[0.5, 1.0, 0.5, 0.3, 0.3, 0.15, 0.15], [0.5, 0.0, 0.0, 0.0, 0.0, 0.15, 0.0]]
    orms.shared_scorer().close()
    orms.shared_scorer.cache_clear()


def test_the_format_reward_uses_its_weight(orms: Any) -> None:
    scorer = RewardScorer(RewardSettings(format=RewardScale(2.0, True)))
    reward = orms.FmtORM(scorer=scorer)
    assert reward([completion("x"), "x"], **columns(2)) == [2.0, -2.0]


def test_the_answer_reward_without_a_judge_is_the_rules(
    orms: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make_scorer()
    rewards = [orms.VqaORM(scorer=scorer), orms.CstORM(scorer=scorer)]
    texts = [
        completion("Grey", "It looks grey."),
        completion("grey", "It looks blue."),
        completion("greyish"),
        "no answer",
    ]
    assert together(rewards, texts) == [[1.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    assert together(rewards, texts) == [[1.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    assert sum("no judge is configured" in record.message for record in caplog.records) == 1
    assert scorer.metrics.drain()["rule_decided"] == 0.75


def test_answer_and_consistency_share_the_verdict_on_the_answer(
    orms: Any, judge: LocalJudge
) -> None:
    judge.reply = lambda body: (
        '{"%s": 1}' % ("Correctness" if "<candidate " in str(body) else "Consistency")
    )
    scorer = make_scorer([judge.url])
    rewards = [orms.VqaORM(scorer=scorer), orms.CstORM(scorer=scorer)]
    assert together(rewards, [completion("a sort of grey")]) == [[1.0], [0.5]]
    assert len(judge.bodies) == 2
    assert sum("<candidate " in str(body) for body in judge.bodies) == 1


def test_consistency_is_not_asked_for_where_the_answer_is_wrong(
    orms: Any, judge: LocalJudge
) -> None:
    scorer = make_scorer([judge.url])
    assert together([orms.CstORM(scorer=scorer)], [completion("blue")]) == [[0.0]]
    assert len(judge.bodies) == 1


def test_consistency_can_be_made_independent_of_the_result(orms: Any, judge: LocalJudge) -> None:
    settings = RewardSettings(consistency_needs_right=False, judge=JudgeSettings(urls=(judge.url,)))
    reward = orms.CstORM(scorer=RewardScorer(settings))
    texts = [completion("blue", "It is blue."), completion("blue", "It is grey.")]
    assert together([reward], texts) == [[0.5, 0.0]]


def test_a_failed_judge_leaves_answer_and_consistency_unscored(
    orms: Any, judge: LocalJudge
) -> None:
    judge.fault = lambda number, body: Fault(content=lambda right: "I cannot say.")
    scorer = make_scorer([judge.url], attempts=1)
    rewards = [orms.VqaORM(scorer=scorer), orms.CstORM(scorer=scorer)]
    texts = [completion("some colour"), "no answer"]
    assert together(rewards, texts) == [[None, 0.0], [None, 0.0]]
    drained = scorer.metrics.drain()
    assert drained["judge_failed_rate"] == 1.0
    assert drained["rewards_unscored"] == 2


def test_the_process_rewards_score_nothing_without_a_judge(orms: Any) -> None:
    scorer = make_scorer()
    rewards = [orms.CodeLlmORM(scorer=scorer), orms.VqaPRM(scorer=scorer)]
    rewards.append(orms.CodePRM(scorer=scorer))
    assert together(rewards, [WITH_CODE]) == [[None], [None], [None]]
    assert together(rewards, ["no code"])[0] == [0.0]


def test_a_row_without_a_solution_is_unscored_and_the_others_keep_theirs(orms: Any) -> None:
    reward = orms.VqaORM(scorer=make_scorer())
    extra = {"solution": ["grey", None, "blue"]}
    texts = [completion("grey"), completion("grey"), completion("blue")]
    assert together([reward], texts, **extra) == [[1.0, None, 1.0]]


@pytest.mark.parametrize(
    ("rollout", "text", "share"),
    [
        ({"thyme_statuses": ["ok"], "thyme_blocks": 1}, WITH_CODE, 1.0),
        ({"thyme_statuses": ["ok", "error"], "thyme_blocks": 2}, WITH_CODE, 0.5),
        ({"thyme_statuses": ["ok"], "thyme_blocks": 2}, WITH_CODE, 0.5),
        ({"thyme_statuses": ["timeout"], "thyme_blocks": 1}, WITH_CODE, 0.0),
        ({"thyme_statuses": [], "thyme_blocks": 0}, completion("x"), 0.0),
        ({"thyme_statuses": ["ok"]}, WITH_CODE * 2, 0.5),
        ({}, WITH_CODE, None),
        ({"thyme_end_reason": "answer"}, WITH_CODE, None),
        ({}, completion("x"), 0.0),
    ],
)
def test_the_code_reward_is_the_recorded_share_of_blocks_that_ran(
    rollout: dict[str, Any], text: str, share: float | None, orms: Any
) -> None:
    assert executed_share(Sample(completion=text, rollout=read_infos(rollout))) == share
    reward = orms.CodeORM(scorer=make_scorer())
    expected = None if share is None else 0.3 * share
    assert reward([text], **columns(1, rollout_infos=[rollout])) == [expected]


def test_a_trajectory_that_our_sandbox_broke_is_unscored_by_every_reward(orms: Any) -> None:
    scorer = make_scorer()
    completions = [completion("grey"), completion("grey")]
    infos = [{"thyme_end_reason": "sandbox_failure"}, {"thyme_end_reason": "answer"}]
    rewards = [orms.FmtORM(scorer=scorer)(completions, **columns(2, rollout_infos=infos))]
    rewards += together(
        [orms.VqaORM(scorer=scorer), orms.CstORM(scorer=scorer)],
        completions,
        rollout_infos=infos,
        solution=["grey", "grey"],
    )
    for broken, scored in rewards:
        assert broken is None
        assert scored is not None
