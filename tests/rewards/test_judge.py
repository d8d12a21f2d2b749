"""The judge client against a local HTTP server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from swift_thyme.core.errors import JudgeError
from swift_thyme.core.samples import Sample
from swift_thyme.rewards.local_judge import Fault, LocalJudge, prompt_part

from .builders import answer_scores, make_sample, make_scorer

# Undecided for the rules; the local judge calls right what equals the reference but for "about".
ANSWERS = [f"{'roughly' if index % 3 else 'something like'} shade {index}" for index in range(24)]
SAMPLES = [make_sample(answer, f"shade {index}") for index, answer in enumerate(ANSWERS)]
EXPECTED: list[float | None] = [float(answer.startswith("roughly")) for answer in ANSWERS]


def lenient(body: dict[str, Any]) -> str:
    """Decide by a rule that the rule stage does not have."""
    return json.dumps({"Correctness": int(prompt_part(body, "candidate").startswith("roughly"))})


def every(count: int, fault: Fault) -> Callable[[int, dict[str, Any]], Fault]:
    """Return a chooser that spoils one request in ``count``, and no question more than twice.

    Requests are numbered in the order in which they come, so that one question could otherwise have
    the bad luck of being spoilt at each of its attempts.
    """
    spoilt: Counter[str] = Counter()

    def choose(number: int, body: dict[str, Any]) -> Fault:
        # Not the whole message, whose marks are new in each attempt.
        question = prompt_part(body, "candidate")
        if number % count or spoilt[question] == 2:
            return Fault()
        spoilt[question] += 1
        return fault

    return choose


def text(make: Callable[[str], str | None]) -> Fault:
    return Fault(content=make)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def start(stack: ExitStack, **options: Any) -> LocalJudge:
    return stack.enter_context(LocalJudge(reply=lenient, **options))


PASSING_FAULTS = {
    "slow": Fault(delay_s=0.4),
    "429": Fault(status=429),
    "429 with Retry-After": Fault(status=429, retry_after="0.2"),
    "429 with a date": Fault(status=429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"),
    "500": Fault(status=500),
    "503 with Retry-After": Fault(status=503, retry_after="0.1"),
    "connection reset": Fault(reset=True),
    "truncated body": Fault(truncate=True),
    "body that is no JSON": Fault(body=b"<html>bad gateway</html>"),
    "body without choices": Fault(body=b'{"error": "overloaded"}'),
    "body with null choices": Fault(body=b'{"choices": null}'),
    "prose around JSON": text(lambda right: f"Let me see. {right} That is my verdict."),
    "truncated JSON": text(lambda right: right[:-4]),
    "wrong keys": text(lambda right: right.replace("Correctness", "Verdict")),
    "null content": text(lambda right: None),
    "empty content": text(lambda right: ""),
    "refusal": text(lambda right: "I am sorry, but I cannot judge this."),
    "two verdicts": text(lambda right: '{"Correctness": 0} {"Correctness": 1}'),
    "impossible verdict": text(lambda right: '{"Correctness": 7}'),
}


def test_without_faults_every_verdict_arrives(stack: ExitStack) -> None:
    judge = start(stack)
    scorer = make_scorer([judge.url])
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    drained = scorer.metrics.drain()
    assert drained["judge_calls"] == drained["judge_requests"] == len(SAMPLES)
    assert drained["judge_failed"] == 0
    assert drained["rule_decided"] == 0
    assert 0 < drained["judge_latency_p50"] <= drained["judge_latency_p95"]


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_fault_in_some_replies_changes_no_reward(name: str, stack: ExitStack) -> None:
    judge = start(stack, fault=every(4, PASSING_FAULTS[name]))
    scorer = make_scorer([judge.url])
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    if name not in ("slow", "prose around JSON"):
        assert scorer.metrics.drain()["judge_requests"] > len(SAMPLES)


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_fault_in_all_replies_never_becomes_a_score(name: str, stack: ExitStack) -> None:
    fault = PASSING_FAULTS[name]
    judge = start(stack, fault=lambda number, body: fault)
    scores = answer_scores(make_scorer([judge.url], attempts=1), SAMPLES[:6])
    if name in ("slow", "prose around JSON"):
        assert scores == EXPECTED[:6]
    else:
        assert scores == [None] * 6


@pytest.mark.parametrize("status", [401, 403, 404, 302, 400, 422, 501])
def test_a_refusing_status_never_becomes_a_score(status: int, stack: ExitStack) -> None:
    judge = start(stack, fault=lambda number, body: Fault(status=status))
    scorer = make_scorer([judge.url])
    assert answer_scores(scorer, SAMPLES[:6]) == [None] * 6
    assert scorer.judge is not None
    assert f"HTTP {status}" in scorer.judge.failures()


@pytest.mark.parametrize("how", ["refuses", "resets", "hangs", "500", "401"])
def test_one_dead_server_of_four_changes_no_reward(how: str, stack: ExitStack) -> None:
    faults = {
        "resets": Fault(reset=True),
        "hangs": Fault(hang=True),
        "500": Fault(status=500),
        "401": Fault(status=401),
    }
    judges = [start(stack, latency_s=0.02) for _ in range(4)]
    if how == "refuses":
        judges[0].stop()
    else:
        judges[0].fault = lambda number, body: faults[how]
    # The dead one comes first, so that it is surely tried.
    scorer = make_scorer([judge.url for judge in judges], read_timeout_s=8.0)
    started = time.monotonic()
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    assert time.monotonic() - started < 8.0
    assert scorer.metrics.drain()["judge_failed"] == 0
    assert all(judge.bodies for judge in judges[1:])


def test_a_dead_server_is_used_again_when_it_is_back(stack: ExitStack) -> None:
    judges = [start(stack, latency_s=0.02) for _ in range(2)]
    judges[0].stop()
    scorer = make_scorer([judge.url for judge in judges])
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    assert not judges[0].bodies
    judges[0].start()
    deadline = time.monotonic() + 30
    while not judges[0].bodies and time.monotonic() < deadline:
        assert answer_scores(scorer, SAMPLES) == EXPECTED
    assert judges[0].bodies


def test_all_dead_gives_no_score_and_all_back_gives_the_right_ones(stack: ExitStack) -> None:
    judges = [start(stack) for _ in range(2)]
    scorer = make_scorer([judge.url for judge in judges])
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    for judge in judges:
        judge.stop()
    started = time.monotonic()
    assert answer_scores(scorer, SAMPLES) == [None] * len(SAMPLES)
    assert time.monotonic() - started < 10
    drained = scorer.metrics.drain()
    assert drained["judge_failed"] == len(SAMPLES)
    for judge in judges:
        judge.start()
    deadline = time.monotonic() + 30
    scores = answer_scores(scorer, SAMPLES)
    while scores != EXPECTED and time.monotonic() < deadline:
        scores = answer_scores(scorer, SAMPLES)
        assert all(score in (None, right) for score, right in zip(scores, EXPECTED, strict=True))
    assert scores == EXPECTED


def test_a_server_that_dies_in_the_middle_costs_no_wrong_score(stack: ExitStack) -> None:
    judge = start(stack, fault=lambda number, _: Fault(reset=number >= 10))
    scores = answer_scores(make_scorer([judge.url], concurrency=4), SAMPLES)
    assert None in scores
    pairs = zip(scores, EXPECTED, strict=True)
    assert all(score in (None, right) for score, right in pairs)
    assert sum(score is not None for score in scores) == 10


def test_failed_steps_in_a_row_stop_training_with_the_reasons(stack: ExitStack) -> None:
    judges = [start(stack), start(stack, fault=lambda number, body: Fault(status=401))]
    judges[0].stop()
    urls = [judge.url for judge in judges]
    scorer = make_scorer(urls, outage_s=0.2, max_failed_steps=3)
    for _ in range(2):
        assert answer_scores(scorer, SAMPLES[:3]) == [None] * 3
    with pytest.raises(JudgeError) as raised:
        answer_scores(scorer, SAMPLES[:3])
    message = str(raised.value)
    assert "3 steps" in message
    assert f"{urls[0]}: cannot connect" in message
    assert f"{urls[1]}: HTTP 401" in message


def test_a_verdict_in_between_starts_the_count_of_failed_steps_again(stack: ExitStack) -> None:
    judge = start(stack)
    scorer = make_scorer([judge.url], attempts=1, max_failed_steps=2)
    for _ in range(3):
        judge.fault = lambda number, body: Fault(content=lambda right: "no")
        assert answer_scores(scorer, SAMPLES[:3]) == [None] * 3
        judge.fault = None
        assert answer_scores(scorer, SAMPLES[:3]) == EXPECTED[:3]


def test_a_step_without_questions_is_not_a_failed_step(stack: ExitStack) -> None:
    judge = start(stack)
    judge.stop()
    scorer = make_scorer([judge.url], max_failed_steps=1)
    assert answer_scores(scorer, [make_sample("grey", "grey")]) == [1.0]


def test_the_same_question_is_asked_once(stack: ExitStack) -> None:
    judge = start(stack, latency_s=0.05)
    scorer = make_scorer([judge.url])
    assert answer_scores(scorer, SAMPLES[:2] * 5) == EXPECTED[:2] * 5
    assert len(judge.bodies) == 2
    assert scorer.metrics.drain()["judge_calls"] == 2


def test_no_server_gets_more_requests_at_once_than_its_cap(stack: ExitStack) -> None:
    judges = [start(stack, latency_s=0.05) for _ in range(2)]
    scorer = make_scorer([judge.url for judge in judges], concurrency=3)
    assert answer_scores(scorer, SAMPLES) == EXPECTED
    assert [judge.most_at_once for judge in judges] == [3, 3]


def test_a_step_ends_at_its_deadline(stack: ExitStack) -> None:
    judge = start(stack, fault=every(2, Fault(hang=True)))
    scorer = make_scorer([judge.url], step_timeout_s=1.0, read_timeout_s=30.0, concurrency=64)
    started = time.monotonic()
    scores = answer_scores(scorer, SAMPLES)
    assert time.monotonic() - started < 15
    assert sum(score is None for score in scores) == len(SAMPLES) // 2
    assert scorer.metrics.drain()["judge_failed"] == len(SAMPLES) // 2


def test_a_server_without_json_mode_is_asked_without_it(stack: ExitStack) -> None:
    judge = start(stack, json_mode=False)
    scorer = make_scorer([judge.url], concurrency=1)
    assert answer_scores(scorer, SAMPLES[:6]) == EXPECTED[:6]
    assert ["response_format" in body for body in judge.bodies] == [True] + [False] * 6


def test_the_model_is_asked_for_once_and_the_key_is_sent(stack: ExitStack) -> None:
    judge = start(stack)
    scorer = make_scorer([judge.url], api_key="secret")
    assert answer_scores(scorer, SAMPLES[:6]) == EXPECTED[:6]
    assert {body["model"] for body in judge.bodies} == {"local-judge"}
    assert all("authorization: bearer secret" in head.lower() for head in judge.headers)


def test_a_configured_model_is_used_as_it_is(stack: ExitStack) -> None:
    judge = start(stack)
    scorer = make_scorer([judge.url], model="my-judge")
    assert answer_scores(scorer, SAMPLES[:2]) == EXPECTED[:2]
    assert {body["model"] for body in judge.bodies} == {"my-judge"}


def test_a_proxy_of_the_environment_is_used_unless_the_host_is_exempt(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = start(stack)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert answer_scores(make_scorer([judge.url]), SAMPLES[:1]) == [None]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert answer_scores(make_scorer([judge.url]), SAMPLES[:1]) == EXPECTED[:1]


def test_processes_prefer_different_servers(stack: ExitStack) -> None:
    judges = [start(stack) for _ in range(2)]
    for rank, judge in enumerate(judges):
        scorer = make_scorer([judge.url for judge in judges], first=rank)
        assert answer_scores(scorer, SAMPLES[:1]) == EXPECTED[:1]
        assert len(judge.bodies) == 1


def test_nothing_of_a_loop_is_left_when_it_is_cancelled(stack: ExitStack) -> None:
    judge = start(stack, fault=lambda number, body: Fault(hang=True))
    scorer = make_scorer([judge.url])

    async def cancelled() -> None:
        async with scorer.step() as step:
            asked = asyncio.gather(*(step.answer(sample) for sample in SAMPLES))
            await asyncio.wait({asked}, timeout=0.3)
            asked.cancel()
            await asyncio.wait({asked})
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(cancelled())
    judge.fault = None
    assert answer_scores(scorer, SAMPLES) == EXPECTED


def test_samples_without_a_solution_are_unscored_and_the_others_are_not(stack: ExitStack) -> None:
    judge = start(stack)
    scorer = make_scorer([judge.url])
    assert answer_scores(scorer, [Sample(completion="<answer>x</answer>"), SAMPLES[1]]) == [
        None,
        EXPECTED[1],
    ]
