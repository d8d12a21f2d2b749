"""Reading the columns that ms-swift passes; the columns are written out as it makes them."""

from __future__ import annotations

from typing import Any

import pytest

from swift_thyme.core.errors import DataError
from swift_thyme.core.protocol import build_user_prompt
from swift_thyme.core.samples import read_samples

DONE = "<think>t</think><answer>grey</answer>"


def one(completion: str = DONE, **columns: Any) -> Any:
    return read_samples([completion], {name: [value] for name, value in columns.items()})[0]


def user(content: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": DONE},
    ]


def test_the_question_column_comes_first() -> None:
    sample = one(question="What is it?", messages=user("<image>Something else"))
    assert sample.question == "What is it?"


@pytest.mark.parametrize("question", [None, "", "  "])
def test_without_a_question_column_the_user_message_is_the_question(question: Any) -> None:
    assert one(question=question, messages=user("<image>\nWhat is it?")).question == "What is it?"


def test_the_prompt_around_a_question_is_taken_off() -> None:
    prompt = build_user_prompt("What is it?\nA. a dog\nB. a cat", "/data/1.jpg", (640, 480))
    assert one(messages=user(prompt)).question == "What is it?\nA. a dog\nB. a cat"


def test_a_message_in_parts_gives_its_text() -> None:
    parts = [{"type": "image", "image": "x"}, {"type": "text", "text": "What is it?"}]
    assert one(messages=user(parts)).question == "What is it?"


def test_a_row_without_anything_has_an_empty_question_and_no_reference() -> None:
    sample = one()
    assert (sample.question, sample.references, sample.images) == ("", (), ())


@pytest.mark.parametrize(
    ("solution", "references"),
    [
        ("grey", ("grey",)),
        ("<answer> grey </answer>", ("grey",)),
        (["grey", "gray"], ("grey", "gray")),
        (5, ("5",)),
        (5.0, ("5",)),
        (0.25, ("0.25",)),
        (True, ("yes", "True")),
        ("", ()),
        (None, ()),
    ],
)
def test_a_solution_may_be_text_a_number_or_several(
    solution: Any, references: tuple[str, ...]
) -> None:
    assert one(solution=solution).references == references


def test_columns_may_have_holes() -> None:
    samples = read_samples(
        [DONE, DONE],
        {
            "images": [None, ["a.jpg"]],
            "rollout_infos": [None, {"thyme_statuses": ["ok"]}],
            "trainer_state": object(),
        },
    )
    assert [sample.images for sample in samples] == [(), ("a.jpg",)]
    assert samples[0].rollout is None
    assert samples[1].rollout is not None
    assert samples[1].rollout.statuses == ["ok"]


def test_what_code_or_its_output_holds_is_no_answer() -> None:
    completion = (
        "<think><code>print('<answer>red</answer>')</code>"
        "<sandbox_output><answer>red</answer></sandbox_output></think>"
    )
    assert one(completion).answer is None
    assert one(f"{completion}<answer>grey</answer>").answer == "grey"


def test_a_completion_that_is_no_text_is_an_error_with_its_place() -> None:
    with pytest.raises(DataError, match="completion 1"):
        read_samples([DONE, [1, 2]], {})


def test_a_solution_that_cannot_be_an_answer_is_an_error_with_its_place() -> None:
    with pytest.raises(DataError, match="row 0"):
        one(solution={"a": 1})
