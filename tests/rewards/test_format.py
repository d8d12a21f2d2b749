"""The format grammar of ``fmt_orm``; nothing is faked."""

from __future__ import annotations

import pytest

from swift_thyme.core.reading import read
from swift_thyme.rewards.format import follows_format

CODE = "<code>\n```python\nprint(1)\n```\n</code><sandbox_output>1</sandbox_output>"


@pytest.mark.parametrize(
    "completion",
    [
        "<think>It is black.</think><answer>black</answer>",
        "<think>It is black.</think>\n<answer>black</answer>",
        "<think>It is black.</think>\n\n\n<answer>black</answer>\n\n",
        "  \n<think>\nIt is black.\n</think>\t<answer>\nblack\n</answer> ",
        f"<think>Look. {CODE} It is 1.</think><answer>1</answer>",
        f"<think>{CODE}</think><answer>1</answer>",
        f"<think>a {CODE} b {CODE} c</think><answer>1</answer>",
        "<THINK>x</THINK><Answer>y</Answer>",
        '<think>a <code>print("<answer>no</answer></think>")</code> b</think><answer>y</answer>',
        "<think>x</think><answer>y</answer><|im_end|>",
        "<think>x</think><answer>y</answer>\n<|im_end|>\n<|endoftext|>",
        "<think>a < b, b > c</think><answer>a < c</answer>",
        "<think>x<sandbox_output><answer>z</answer></sandbox_output></think><answer>y</answer>",
        # An empty thought in front is that of a template whose thinking is off.
        "<think>\n\n</think>\n\n<think>It is black.</think><answer>black</answer>",
        " <THINK></think><think>x</think><answer>y</answer>",
        f"<think>\n\n</think>\n\n<think>Look. {CODE} It is 1.</think><answer>1</answer>",
    ],
)
def test_a_completion_in_the_format_passes(completion: str) -> None:
    assert follows_format(completion)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "black",
        "<answer>black</answer>",
        "<think>x</think>",
        "<think></think><answer>y</answer>",
        "<think>  \n </think><answer>y</answer>",
        "<think>x</think><answer></answer>",
        "<think>\n\n</think>\n\n<answer>y</answer>",
        "<think></think><think></think><answer>y</answer>",
        "<think></think><think></think><think>x</think><answer>y</answer>",
        "Sure! <think></think><think>x</think><answer>y</answer>",
        "<think>x</think><think></think><answer>y</answer>",
        "<think></think>x<think>x</think><answer>y</answer>",
        "<think>x</think><answer>  \n</answer>",
        "Sure! <think>x</think><answer>y</answer>",
        "<think>x</think> so <answer>y</answer>",
        "<think>x</think><answer>y</answer> Done.",
        "<think>x</think><answer>y</answer><answer>z</answer>",
        "<think>x</think><think>z</think><answer>y</answer>",
        "<answer>y</answer><think>x</think>",
        "<think>x<think>z</think></think><answer>y</answer>",
        "<think>x</think><answer>y<answer>z</answer></answer>",
        "<think>x<answer>y</answer></think>",
        "<think>x<answer>y</answer></think><answer>y</answer>",
        "<think>x<answer>y</answer>",
        "<think>x</think><answer>y",
        "x</think><answer>y</answer>",
        "<think>x <code>print(1)</think><answer>y</answer>",
        "<think>x </code></think><answer>y</answer>",
        "<think><code>a<code>b</code></code></think><answer>y</answer>",
        "<think>x</think><code>print(1)</code><answer>y</answer>",
        "<think>x</think><answer><code>print(1)</code></answer>",
        "<think>x</think><answer>y</think></answer>",
        "<think>x</think><sandbox_output><answer>y</answer></sandbox_output>",
        "<|im_end|><think>x</think><answer>y</answer>",
        "<think>x</sandbox_output></think><answer>y</answer>",
    ],
)
def test_a_completion_off_the_format_fails(completion: str) -> None:
    assert not follows_format(completion)


def test_very_long_completions_are_checked_in_linear_time() -> None:
    assert not follows_format("<think>" * 20_000)
    assert not follows_format("<code>" * 20_000)
    assert follows_format(f"<think>{'word ' * 100_000}</think><answer>y</answer>")


def test_an_empty_thought_in_front_is_no_reasoning() -> None:
    empty = "<think>\n\n</think>\n\n"
    assert read(f"{empty}<think>It is 1.</think><answer>1</answer>").reasoning == "It is 1."
    assert read(f"{empty}It is 1.<answer>1</answer>").reasoning == "It is 1."
    assert read(f"{empty}<answer>1</answer>").reasoning == ""
    assert read("<think>a</think><think></think>").reasoning == "a"


def test_the_reasoning_is_the_thinking_without_code_and_outputs() -> None:
    completion = f"<think>First. {CODE} Then.</think><answer>1</answer>"
    assert " ".join(read(completion).reasoning.split()) == "First. Then."


def test_the_reasoning_of_a_broken_completion_ends_at_the_answer() -> None:
    assert read("It is black. <answer>black</answer>").reasoning == "It is black."
    assert read("<think>cut off in <code>print(").reasoning == "cut off in"
