"""One verdict before a job depends on the judge: real requests to real (and to missing) servers."""

import asyncio

import pytest

from swift_thyme.core.errors import JudgeError
from swift_thyme.rewards.judge_check import check_judge
from swift_thyme.rewards.local_judge import Fault, LocalJudge
from swift_thyme.rewards.reward_settings import JudgeSettings
from tests.conftest import free_port


def settings(*urls: str) -> JudgeSettings:
    return JudgeSettings(urls=urls, attempts=2, outage_s=0.2, max_failed_steps=1)


def test_a_judge_that_answers_is_enough() -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    with LocalJudge() as judge:
        asyncio.run(check_judge(settings(judge.url)))
        asyncio.run(check_judge(settings(gone, judge.url)))


def test_a_judge_that_is_not_there_is_named_in_one_line() -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(JudgeError) as caught:
        asyncio.run(check_judge(settings(gone)))
    line = str(caught.value)
    assert line.startswith(f"no judge answers: {gone}: cannot connect")
    assert "THYME_JUDGE_URLS" in line and "\n" not in line


def test_a_server_without_verdicts_is_no_judge() -> None:
    silent = Fault(content=lambda text: "I would rather not say.")
    with LocalJudge(fault=lambda number, body: silent) as judge:
        with pytest.raises(JudgeError, match="a reply without a verdict"):
            asyncio.run(check_judge(settings(judge.url)))
