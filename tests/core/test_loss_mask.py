"""Where a demonstration parts from the response prefix; the labels are tested in ``tests/sft``."""

import pytest

from swift_thyme.core.loss_mask import after_prefix

EMPTY = "<think>\n\n</think>\n\n"
TURN = "<think>x</think><answer>y</answer>"


@pytest.mark.parametrize(
    ("prefix", "response", "rest"),
    [
        ("<think>\n", "<think>\nx</think>", "x</think>"),
        ("<think>\n", "<think>\n\nx</think>", "\nx</think>"),
        ("<think>\n", "<think>x</think>", "x</think>"),
        ("<think>\n", "\n<THINK> x</think>", "x</think>"),
        ("<think>", "<think>\nx</think>", "\nx</think>"),
        ("<think>Well, ", "<think>x</think>", "x</think>"),
        ("<think>\n", "<answer>y</answer>", None),
        ("<think>\n", "", None),
        (EMPTY, EMPTY + TURN, TURN),
        (EMPTY, TURN, TURN),
        (EMPTY, f"<think></think>{TURN}", TURN),
        (EMPTY, "<answer>y</answer>", "<answer>y</answer>"),
        ("Sure. ", f"Sure. {TURN}", TURN),
        ("Sure. ", TURN, TURN),
        ("Sure. ", EMPTY + TURN, EMPTY + TURN),
    ],
)
def test_what_a_model_writes_after_the_prefix(prefix: str, response: str, rest: str | None) -> None:
    assert after_prefix(response, prefix) == rest
