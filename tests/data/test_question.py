"""Reading question, options, answer and pictures of a row, from text and from values."""

from typing import Any

import pytest

from swift_thyme.data.question import image_values, read_question
from swift_thyme.data.reasons import Reason, RowRejected

NAN = float("nan")
ABC = {"A": "red", "B": "green", "C": "blue"}
LISTED = {"A": "Red", "B": "Blue", "C": "Green"}


@pytest.mark.parametrize("column", ["multi-choice options", "options", "choices"])
@pytest.mark.parametrize(
    "cell",
    [
        "['(A) Red', '(B) Blue', '(C) Green']",
        '["A. Red", "B. Blue", "C. Green"]',
        "The choices are:\n(A) Red\n(B) Blue\n(C) Green",
        ["(A) Red", "(B) Blue", "(C) Green"],
        ["Red", "Blue", "Green"],
        "['Red', 'Blue', 'Green']",
        "['(A) Red' '(B) Blue'\n '(C) Green']",
        {"A": "Red", "B": "Blue", "C": "Green", "D": None},
    ],
)
def test_options_in_one_column(column: str, cell: Any) -> None:
    asked = read_question({"question": "q?", "answer": "B", column: cell})
    assert dict(asked.options) == LISTED
    assert asked.references == ("B",)


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ({"A": "Pita", "B": "Nan", "C": "Toast"}, ["Pita", "Nan", "Toast"]),
        ({"A": "1", "B": "2", "C": "nan", "D": "nan"}, ["1", "2"]),
        ({"A": "1", "B": "2", "C": NAN}, ["1", "2"]),
        ({"A": "1", "B": "nan", "C": "3"}, ["1", "nan", "3"]),
        ({"A": "1", "B": "2", "C": "3", "D": "None"}, ["1", "2", "3", "None"]),
        ({"A": 1, "B": 2.5, "C": 3.0}, ["1", "2.5", "3"]),
        ({"A": "nan", "B": "nan"}, []),
        ({"options": "[]"}, []),
        ({"choices": []}, []),
        ({"options": NAN}, []),
    ],
)
def test_a_missing_option_is_told_from_a_word(cells: dict[str, Any], options: list[str]) -> None:
    answer = "B" if options else "x"
    asked = read_question({"question": "q?", "answer": answer, **cells})
    assert list(asked.options.values()) == options


def test_a_right_option_is_never_taken_for_a_missing_one() -> None:
    values = {"question": "q?", "A": "roti", "B": "nan", "answer": "B"}
    assert list(read_question(values).options.values()) == ["roti", "nan"]


@pytest.mark.parametrize(
    ("answer", "references"),
    [
        ("['crimson', 'dark red']", ("crimson", "dark red")),
        ('["crimson", "dark red", "crimson"]', ("crimson", "dark red")),
        (["crimson", "dark red"], ("crimson", "dark red")),
        (["12", 12.0, None, NAN], ("12",)),
        ("['one']", ("one",)),
        ("['crimson' 'dark red']", ("crimson", "dark red")),
        ("""["a' 'b"]""", ("a' 'b",)),
        ("[0, 1]", ("[0, 1]",)),
        (3.0, ("3",)),
        (3.5, ("3.5",)),
        ("None", ("None",)),
        ("null", ("null",)),
    ],
)
def test_answers_of_an_open_question(answer: Any, references: tuple[str, ...]) -> None:
    assert read_question({"question": "q?", "answer": answer}).references == references


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("green", "B"),
        (" Green. ", "B"),
        ("B. green", "B"),
        ("(B) Green", "B"),
        (["B", "green"], "B"),
    ],
)
def test_an_answer_names_its_option(answer: Any, letter: str) -> None:
    assert read_question({"question": "q?", "answer": answer, **ABC}).references == (letter,)


def test_an_options_text_comes_before_a_small_letter() -> None:
    values = {"question": "q?", "A": "b", "B": "c", "C": "a", "answer": "a"}
    assert read_question(values).references == ("C",)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"answer": NAN}, Reason.MISSING_COLUMN),
        ({"answer": None}, Reason.MISSING_COLUMN),
        ({"answer": "nan"}, Reason.EMPTY_ANSWER),
        ({"answer": " "}, Reason.EMPTY_ANSWER),
        ({"answer": []}, Reason.EMPTY_ANSWER),
        ({"answer": "[]"}, Reason.EMPTY_ANSWER),
        ({"answer": [NAN, "nan"]}, Reason.EMPTY_ANSWER),
        ({"answer": float("inf")}, Reason.WRONG_TYPE),
        ({"answer": {"text": "x"}}, Reason.WRONG_TYPE),
        ({"answer": True}, Reason.WRONG_TYPE),
        ({"question": NAN}, Reason.MISSING_COLUMN),
        ({"question": "nan"}, Reason.EMPTY_QUESTION),
        ({**ABC, "answer": "E"}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": "purple"}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": "B. purple"}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": "nan"}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": 1}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": ["A", "B"]}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "answer": "AC"}, Reason.ANSWER_NO_OPTION),
        ({**ABC, "B": NAN, "answer": "A"}, Reason.BAD_OPTIONS),
        ({**ABC, "B": " ", "answer": "A"}, Reason.BAD_OPTIONS),
        ({"A": "red", "answer": "A"}, Reason.BAD_OPTIONS),
        ({"options": "red or green", "answer": "A"}, Reason.BAD_OPTIONS),
        ({"options": ["(A) red", "(A) green"], "answer": "A"}, Reason.BAD_OPTIONS),
        ({"options": ["(A) red", "green"], "answer": "A"}, Reason.BAD_OPTIONS),
        ({"options": ["red", None], "answer": "A"}, Reason.BAD_OPTIONS),
        ({"options": 3, "answer": "A"}, Reason.BAD_OPTIONS),
    ],
)
def test_a_row_that_cannot_be_used_has_its_reason(cells: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RowRejected) as caught:
        read_question({"question": "q?", "answer": "x"} | cells)
    assert caught.value.reason is reason


def test_hint_and_image_tags_are_no_part_of_the_question() -> None:
    values = {"question": "<image>\nWhich? ", "answer": "x", "hint": "nan"}
    asked = read_question(values)
    assert (asked.text, asked.hint) == ("Which?", "")
    assert read_question(values | {"hint": " Count. "}).hint == "Count."


@pytest.mark.parametrize(
    ("values", "images"),
    [
        ({"image": "a.png"}, ["a.png"]),
        ({"images": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"image_path": "['a.png', 'it''s.png']"}, ["a.png", "its.png"]),
        ({"image_path": '["it\'s.png", "b.png"]'}, ["it's.png", "b.png"]),
        ({"image": None, "image_path": "a.png"}, ["a.png"]),
        ({"image": NAN, "images": ["a.png"]}, ["a.png"]),
        ({"image": "nan"}, []),
        ({"image": "[]"}, []),
        ({"question": "q?"}, []),
    ],
)
def test_pictures_come_alone_or_in_lists(values: dict[str, Any], images: list[str]) -> None:
    assert image_values(values) == images


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"images": ["a.png", None]}, Reason.IMAGE_EMPTY),
        ({"images": ["a.png", ""]}, Reason.IMAGE_EMPTY),
        ({"image": "['a.png', "}, Reason.WRONG_TYPE),
    ],
)
def test_a_list_with_a_hole_is_rejected(values: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RowRejected) as caught:
        image_values(values)
    assert caught.value.reason is reason
