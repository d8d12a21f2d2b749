"""Reading verdicts from replies; nothing is faked."""

from __future__ import annotations

import pytest

from swift_thyme.rewards.replies import parse_reply


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"Correctness": 1}', 1),
        ('{"Correctness": 0}', 0),
        (' {"Correctness":1}\n', 1),
        ('{"Correctness": "1"}', 1),
        ('{"reason": "same colour", "Correctness": 1}', 1),
        ('```json\n{"Correctness": 0}\n```', 0),
        ('The answers agree. {"Correctness": 1} Have a nice day.', 1),
        ('They {differ}. {"Correctness": 0}', 0),
        ('<think>Maybe {"Correctness": 1}?</think>{"Correctness": 0}', 0),
    ],
)
def test_a_verdict_is_read(reply: str, verdict: int) -> None:
    assert parse_reply(reply, "Correctness", 1) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        None,
        7,
        "",
        "1",
        "Correctness: 1",
        "{'Correctness': 1}",
        '{"Correctness": 1',
        '{"correctness": 1}',
        '{"Correct": 1}',
        '{"Correctness": 2}',
        '{"Correctness": -1}',
        '{"Correctness": 0.5}',
        '{"Correctness": true}',
        '{"Correctness": null}',
        '{"Correctness": [1]}',
        '{"Correctness": "yes"}',
        '{"Correctness": 0, "Correctness": 1}',
        '{"Correctness": 0} or {"Correctness": 1}',
        'He wrote {"Correctness": 1}. My verdict: {"Correctness": 1}',
        '{"Correct\\u006eess": 1}',
        '{"x": "Correctness", "Correct\\u006eess": 1}',
        '{"result": {"Correctness": 1}}',
        '<think>{"Correctness": 1}',
        "[" * 5000,
        '{"a":' * 5000,
        '{"Correctness": 1}' + " " * 30_000,
        "I am sorry, but I cannot help with that.",
    ],
)
def test_anything_else_is_no_verdict(reply: object) -> None:
    assert parse_reply(reply, "Correctness", 1) is None


def test_a_grade_may_be_as_high_as_its_scale() -> None:
    assert parse_reply('{"Score": 4}', "Score", 4) == 4
    assert parse_reply('{"Score": 5}', "Score", 4) is None
