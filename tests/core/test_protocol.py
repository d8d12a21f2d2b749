"""The text protocol; pure functions, nothing is faked."""

import pytest

from swift_thyme.core import protocol


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ("<code>\n```python\nprint(1)\n```\n</code>", "print(1)"),
        ("<think>look <code>```python\nprint(1)\n```</code>", "print(1)"),
        ("<code>\nprint(1)\n</code>", "print(1)"),
        ("<code>print(1)</code>", "print(1)"),
        ("<CODE>\n```Python\nprint(1)\n```\n</Code>", "print(1)"),
        ("<code>\n```py\nprint(1)\n```\n</code>\n", "print(1)"),
        ("<code>\n```\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>\n```python\nprint(1)\n</code>", "print(1)\n"),
        ("<code>\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>\n```python\n  if x:\n    print(1)\n```\n</code>", "  if x:\n    print(1)"),
        ("<code>a</code><sandbox_output>1</sandbox_output><code>b</code>", "b"),
        ("<code></code>", ""),
    ],
)
def test_a_turn_that_ends_with_a_code_block_has_pending_code(turn: str, code: str) -> None:
    assert protocol.pending_code(turn) == code


@pytest.mark.parametrize(
    "turn",
    [
        "",
        "<think>no code</think><answer>1</answer>",
        "<code>print(1)",
        "print(1)</code>",
        "<code>print(1)</code> and so I see",
        "<sandbox_output><code>print(1)</code></sandbox_output>",
        "<sandbox_output><code>print(1)</code>",
    ],
)
def test_a_turn_without_a_closed_block_at_its_end_has_no_pending_code(turn: str) -> None:
    assert protocol.pending_code(turn) is None


def test_a_tag_that_a_program_prints_is_no_code_block() -> None:
    text = "<code>a</code><sandbox_output><code>b</code></sandbox_output><code>c</code>"
    assert [block.code for block in protocol.code_blocks(text)] == ["a", "c"]
    assert [text[: block.end].endswith("</code>") for block in protocol.code_blocks(text)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("<code>print(1)", True),
        ("<code>print(1)</code>", False),
        ("<code>a</code> then <Code> b", True),
        ("<sandbox_output><code></sandbox_output>", False),
        ("", False),
    ],
)
def test_an_unclosed_block_is_seen(text: str, is_open: bool) -> None:
    assert protocol.has_open_code_block(text) is is_open


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer> 47 </answer>", "47"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<ANSWER>B</Answer>", "B"),
        ("<answer>open", None),
        ("47", None),
        ("<sandbox_output><answer>9</answer></sandbox_output>", None),
    ],
)
def test_the_answer_is_what_the_model_wrote_last(completion: str, answer: str | None) -> None:
    assert protocol.extract_answer(completion) == answer


@pytest.mark.parametrize(
    "path", ["/data/a.jpg", "/data/mit Leerzeichen.png", '/d/quote".jpg', "/d/ü.png"]
)
def test_the_image_path_survives_the_prompt(path: str) -> None:
    prompt = protocol.build_user_prompt("What colour?", path, (640, 480))
    found = protocol.parse_user_prompt(prompt)
    assert found is not None
    assert found.path == path
    assert prompt.startswith("<image>\nWhat colour?\n")
    assert '"640x480"' in prompt


def test_a_prompt_without_a_path_has_none() -> None:
    assert protocol.parse_user_prompt("<image>\nWhat colour?") is None
