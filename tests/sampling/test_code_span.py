"""The decision "is the next token inside code", without an engine."""

import random

import pytest

from swift_thyme.sampling.code_span import CodeSpan, TokenText, assistant_turn

TEXT = (
    "<think>a<code>\nx = '<code>'\n</code>b<sandbox_output>1</sandbox_output>"
    "<CODE>y</Code> c<code>z"
)


def expected_inside(text: str) -> list[bool]:
    """For each prefix of the text, whether the next character is inside code."""
    inside, states, position = False, [False], 0
    lowered = text.lower()
    while position < len(text):
        tag = "</code>" if inside else "<code>"
        if lowered.startswith(tag, position):
            states.extend([inside] * (len(tag) - 1))
            inside = not inside
            states.append(inside)
            position += len(tag)
        else:
            states.append(inside)
            position += 1
    return states


@pytest.mark.parametrize("seed", range(50))
def test_tags_may_be_split_over_tokens_in_any_way(seed: int) -> None:
    rng = random.Random(seed)
    states = expected_inside(TEXT)
    span, position = CodeSpan(), 0
    while position < len(TEXT):
        size = rng.randint(1, 9)
        span.push(TEXT[position : position + size].lower())
        position = min(position + size, len(TEXT))
        assert span.inside is states[position], TEXT[:position]


@pytest.mark.parametrize(
    ("pieces", "inside"),
    [
        (["<code>"], True),
        (["<", "co", "de", ">"], True),
        (["<code>", "a", "</code>"], False),
        (["<code>a</code><code>"], True),
        (["<code", " >"], False),
        (["<code>", "</code", ">\n"], False),
        (["<code>x</code> <code>y</code> <code>"], True),
        (["</code>"], False),
        ([], False),
    ],
)
def test_the_state_after_a_text(pieces: list[str], inside: bool) -> None:
    assert CodeSpan().push_all(pieces) is inside


def test_what_is_kept_of_a_long_text_is_bounded() -> None:
    span = CodeSpan()
    for _ in range(10_000):
        span.push("word ")
    assert len(span._tail) < len("</code>")


def test_only_the_assistants_turn_counts_in_a_prompt() -> None:
    assert assistant_turn([9, 1, 2, 9, 5, 6], 9) == [5, 6]
    assert assistant_turn([1, 2], 9) == []
    assert assistant_turn([1, 2], None) == []


def test_a_tokens_text_is_decoded_once_and_lower_cased() -> None:
    calls: list[list[int]] = []

    def decode(ids: list[int]) -> str:
        calls.append(ids)
        return "<CODE>"

    text = TokenText(decode)
    assert [text(7), text(7)] == ["<code>", "<code>"]
    assert calls == [[7]]
