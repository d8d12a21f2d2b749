"""The order of options: balanced letters, the same order again, and options that stay."""

import random
import string
from collections import Counter
from pathlib import Path

import pytest

from swift_thyme.data.option_order import AnswerBalance, option_order
from swift_thyme.testbed.tsv import make_tsvs
from tests.data.builders import make_picture, read_jsonl, run, write_jsonl

FOUR = {"A": "red", "B": "green", "C": "blue", "D": "grey"}


def letters(n: int, rows: int, wanted: str = "A") -> list[str]:
    """Return the right letters of rows with n options whose right one is always the same."""
    balance = AnswerBalance()
    options = {letter: f"thing {letter}" for letter in string.ascii_uppercase[:n]}
    orders = [balance.order(options, "q?", wanted, f"0/1/{i}") for i in range(rows)]
    assert all(sorted(order) == sorted(options) for order in orders)
    return [string.ascii_uppercase[order.index(wanted)] for order in orders]


@pytest.mark.parametrize("rows", [24, 25, 27, 191, 1000])
@pytest.mark.parametrize("wanted", ["A", "C", "D"])
def test_each_letter_is_right_equally_often(rows: int, wanted: str) -> None:
    counts = Counter(letters(4, rows, wanted))
    assert set(counts) == set("ABCD")
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_number_of_options_says_nothing_about_the_letter() -> None:
    balance, seen = AnswerBalance(), {2: Counter[str](), 4: Counter[str]()}
    source = random.Random(1)
    for i in range(200):
        n = source.choice([2, 4])
        options = dict(list(FOUR.items())[:n])
        order = balance.order(options, "q?", "A", str(i))
        seen[n]["ABCD"[order.index("A")]] += 1
    for n, counts in seen.items():
        assert len(counts) == n
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_places_follow_no_pattern() -> None:
    found = letters(4, 400)
    blocks = {tuple(found[i : i + 4]) for i in range(0, 400, 4)}
    assert all(sorted(block) == list("ABCD") for block in blocks)
    assert len(blocks) == 6, "the file's letter comes first, the other three in any order"


@pytest.mark.parametrize(
    ("options", "fixed"),
    [
        ({**FOUR, "D": "None of the above"}, {3}),
        ({**FOUR, "C": "All of the above"}, {2, 3}),
        ({**FOUR, "D": "The image does not feature it."}, {3}),
        ({**FOUR, "D": "Both A and B"}, {0, 1, 2, 3}),
        ({**FOUR, "C": "A and B", "D": "A, B and C"}, {0, 1, 2, 3}),
        ({**FOUR, "D": "Options B or C"}, {0, 1, 2, 3}),
        ({**FOUR, "D": "Only A"}, {0, 1, 2, 3}),
        ({**FOUR, "D": "Both a cat and a dog"}, set()),
        ({**FOUR, "D": "A cat and a dog"}, set()),
        ({**FOUR, "A": "above the table", "B": "Below"}, set()),
        ({**FOUR, "D": "All above"}, {3}),
    ],
)
def test_options_that_refer_to_others_stay(options: dict[str, str], fixed: set[int]) -> None:
    orders = [option_order(options, "q?", str(seed)) for seed in range(60)]
    staying = {place for place in range(4) if len({order[place] for order in orders}) == 1}
    assert staying == fixed
    balance = AnswerBalance()
    for seed in range(60):
        order = balance.order(options, "q?", "ABCD"[seed % 4], str(seed))
        assert all(order[place] == "ABCD"[place] for place in fixed)


def test_options_that_the_question_lists_itself_stay() -> None:
    question = "Which? (A) red (B) green (C) blue (D) grey"
    assert {option_order(FOUR, question, str(seed)) for seed in range(20)} == {tuple("ABCD")}


@pytest.mark.parametrize("rows", [24, 150])
def test_a_file_whose_answer_is_always_a_is_balanced(tmp_path: Path, rows: int) -> None:
    files = make_tsvs(tmp_path, rows, seed=3)
    report = run("rl", files.vstar, tmp_path / "out", rows_per_shard=64)
    kept = read_jsonl(tmp_path / "out" / "plates_vstar.rl.jsonl")
    counts = Counter(row["solution"] for row in kept)
    assert set(counts) == set("ABCD")
    assert all(0.15 <= count / rows <= 0.35 for count in counts.values())
    assert report.warnings == []
    run("rl", files.vstar, tmp_path / "again", rows_per_shard=64, workers=2)
    again = read_jsonl(tmp_path / "again" / "plates_vstar.rl.jsonl")
    assert [(row["question"], row["solution"]) for row in again] == [
        (row["question"], row["solution"]) for row in kept
    ]


def test_the_smallest_parts_are_balanced_by_chance(tmp_path: Path) -> None:
    make_picture(tmp_path)
    rows = [{"image": "a.jpg", "question": f"{i}?", **FOUR, "answer": "A"} for i in range(120)]
    source = write_jsonl(tmp_path / "t.jsonl", rows)
    report = run("rl", source, tmp_path / "out", rows_per_shard=1)
    assert all(0.15 <= count / 120 <= 0.35 for count in report.answers["t"].values())
    assert len(report.answers["t"]) == 4


def test_the_right_text_stays_right(tmp_path: Path) -> None:
    make_picture(tmp_path)
    rows = [{"image": "a.jpg", "question": f"{i}?", **FOUR, "answer": "A"} for i in range(12)]
    run("rl", write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out")
    for row in read_jsonl(tmp_path / "out" / "t.rl.jsonl"):
        assert f"\n{row['solution']}. red" in row["question"]
        assert row["question"] in row["messages"][0]["content"]


def test_one_answer_that_dominates_is_warned_of(tmp_path: Path) -> None:
    files = make_tsvs(tmp_path, 24, seed=3)
    report = run("rl", files.vstar, tmp_path / "out", shuffle=False)
    assert report.answers == {"plates_vstar": {"A": 24}}
    (warning,) = report.warnings
    assert "plates_vstar: 24 of 24 solutions are 'A'" in warning
    assert "warning: plates_vstar" in (tmp_path / "out" / "report.txt").read_text()


def test_a_file_with_all_rotations_keeps_its_order(tmp_path: Path) -> None:
    files = make_tsvs(tmp_path, 8, seed=3)
    report = run("rl", files.hrbench, tmp_path / "out")
    kept = read_jsonl(tmp_path / "out" / "plates_hrbench.rl.jsonl")
    assert [row["solution"] for row in kept[:4]] == list("ABCD")
    assert report.warnings == []
