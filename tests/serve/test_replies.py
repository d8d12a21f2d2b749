"""The answer is told from the rest, wherever text is cut."""

import pytest

from swift_thyme.serve.replies import AnswerSplitter

TEXTS = [
    ("<think>a</think>\n<answer>red</answer>", "<think>a</think>\n", "red"),
    ("<answer>  two words \n</answer>", "", "two words"),
    ("<code>'<answer>no</answer>'</code><answer>yes</answer>", None, "yes"),
    ("a < b <ans <answer>1 < 2</answer>", "a < b <ans ", "1 < 2"),
    ("<ANSWER>x</Answer>", "", "x"),
    ("no answer <answ", "no answer <answ", ""),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), TEXTS)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_text_may_be_cut_anywhere(text: str, reasoning: str | None, answer: str, size: int) -> None:
    splitter = AnswerSplitter()
    deltas = [splitter.push(text[i : i + size]) for i in range(0, len(text), size)]
    deltas.append(splitter.finish())
    assert "".join(delta.content for delta in deltas) == answer
    expected = "<code>'<answer>no</answer>'</code>" if reasoning is None else reasoning
    assert "".join(delta.reasoning for delta in deltas) == expected


def test_what_the_sandbox_says_is_no_answer() -> None:
    splitter = AnswerSplitter()
    splitter.push("<think>")
    delta = splitter.observe("<sandbox_output><answer>1</answer></sandbox_output>")
    assert delta.content == ""
    assert splitter.push("<answer>2</answer>").content == "2"
