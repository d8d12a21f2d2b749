"""Order of options, matching."""

import csv
from pathlib import Path
from typing import Any

import pytest

from swift_thyme.answers.verdict import Verdict
from swift_thyme.evaluation.items import PromptStyle, show
from swift_thyme.evaluation.matching import match
from swift_thyme.evaluation.tsv import Item, read_tsv

from .builders import row, write_tsv


@pytest.fixture
def item(tmp_path: Path) -> Item:
    return read_tsv(write_tsv(tmp_path / "a.tsv", [row(0)])).items[0]


def ask(item: Item, run: int = 1, style: PromptStyle = PromptStyle.OPTIONS, seed: int = 0) -> Any:
    return show(item, style=style, shuffle=True, seed=seed, run=run)


def test_options_change_places_by_seed_run_and_row(item: Item) -> None:
    orders = {ask(item, run).order for run in range(1, 30)}
    assert len(orders) == 6
    assert all(order[3] == "D" for order in orders), "none of the above stays last"
    assert ask(item, 3).order == ask(item, 3).order
    assert {ask(item, 1, seed=seed).order for seed in range(20)} == orders


def test_the_question_shows_the_options_in_their_new_order(item: Item) -> None:
    shown = next(s for s in map(lambda run: ask(item, run), range(1, 30)) if s.order[0] != "A")
    assert list(shown.options.values()) == [item.options[letter] for letter in shown.order]
    for letter, text in shown.options.items():
        assert f"\n{letter}. {text}\n" in shown.question
    assert shown.options[shown.answer_letter] == "red"
    assert shown.original(shown.answer_letter) == "A"


@pytest.mark.parametrize("style", list(PromptStyle))
@pytest.mark.parametrize("run", [1, 2, 3, 4])
def test_an_answer_is_mapped_back_to_the_letter_of_the_file(
    item: Item, run: int, style: PromptStyle
) -> None:
    shown = ask(item, run, style)
    for letter, text in shown.options.items():
        original = shown.original(letter)
        verdict = Verdict.RIGHT if original == "A" else Verdict.WRONG
        answers = [text, f"The answer is {text}."]
        if style is PromptStyle.OPTIONS:
            answers += [letter, f"({letter})", f"{letter}. {text}"]
        for answer in answers:
            found = match(shown, answer)
            assert (found.choice, found.verdict, found.prediction) == (original, verdict, original)


def test_answers_that_pick_nothing(item: Item) -> None:
    shown = ask(item)
    assert match(shown, None).verdict is Verdict.WRONG
    assert match(shown, None).prediction == ""
    vague = match(shown, "some warm colour, I think")
    assert vague.verdict is Verdict.UNDECIDED
    assert (vague.choice, vague.prediction) == (None, "some warm colour, I think")


def test_a_letter_means_nothing_where_no_letters_were_shown(item: Item) -> None:
    assert match(ask(item, 1, PromptStyle.QUESTION), "A").choice is None


def test_large_cells_are_read(tmp_path: Path) -> None:
    csv.field_size_limit(1000)
    large = row(0, question="x" * 300_000)
    assert len(read_tsv(write_tsv(tmp_path / "a.tsv", [large])).items[0].question) == 300_000
