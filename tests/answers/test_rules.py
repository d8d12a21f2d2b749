"""The rule stage against pairs with known verdicts; nothing is faked."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from swift_thyme.answers.maths import MathsChecker
from swift_thyme.answers.rules import answer_is_concluded, match_answer
from swift_thyme.answers.verdict import Verdict

from .answer_pairs import COLOURS, PAIRS

ALL_PAIRS = [(family, *pair) for family, pairs in PAIRS.items() for pair in pairs]


@pytest.fixture(scope="module")
def maths() -> Iterator[MathsChecker]:
    with MathsChecker(timeout_s=5.0) as checker:
        yield checker


@pytest.mark.parametrize(("family", "answer", "reference", "question", "verdict"), ALL_PAIRS)
def test_a_pair_gets_its_known_verdict(
    family: str,
    answer: str,
    reference: str,
    question: str,
    verdict: Verdict,
    maths: MathsChecker,
) -> None:
    assert match_answer(answer, reference, question, maths) is verdict


def test_there_are_enough_pairs_of_every_verdict() -> None:
    assert len(ALL_PAIRS) >= 150
    assert len({(answer, reference, question) for _, answer, reference, question, _ in ALL_PAIRS})
    for verdict in Verdict:
        assert sum(pair[-1] is verdict for pair in ALL_PAIRS) >= 40


def test_the_reference_itself_is_always_right(maths: MathsChecker) -> None:
    for _, _, reference, question, _ in ALL_PAIRS:
        assert match_answer(reference, reference, question, maths) is Verdict.RIGHT


def test_no_answer_is_wrong() -> None:
    assert match_answer(None, "black") is Verdict.WRONG


def test_an_empty_reference_decides_nothing() -> None:
    assert match_answer("black", "") is Verdict.UNDECIDED
    assert match_answer("black", ()) is Verdict.UNDECIDED


def test_one_of_several_references_is_enough() -> None:
    assert match_answer("7", ("6", "seven")) is Verdict.RIGHT
    assert match_answer("7", ("6", "5")) is Verdict.WRONG
    assert match_answer("7", ("6", "some")) is Verdict.UNDECIDED


def test_without_mathematics_expressions_stay_undecided() -> None:
    assert match_answer("x^2+1", "1+x^2") is Verdict.UNDECIDED


def test_an_answer_that_lists_every_option_is_never_right() -> None:
    everything = "A. black B. white C. dark red D. light blue"
    for letter in "ABCD":
        assert match_answer(everything, letter, COLOURS) is not Verdict.RIGHT


def test_mathematics_works_outside_the_main_thread_and_is_bounded_in_time() -> None:
    verdicts: list[Verdict] = []
    with MathsChecker(timeout_s=1.0) as checker:
        assert checker("x+1", "1+x") is Verdict.RIGHT  # starts the process

        def compare() -> None:
            verdicts.append(checker("9^{9^{9^{9^{9}}}}", "9^{9^{9^{9^{8}}}}"))
            verdicts.append(checker("x+2", "2+x"))

        thread = threading.Thread(target=compare)
        started = time.monotonic()
        thread.start()
        thread.join(60)
        # One limit, and a new process, which has to import sympy again.
        assert time.monotonic() - started < 30
    assert verdicts == [Verdict.UNDECIDED, Verdict.RIGHT]


def test_a_known_pair_is_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with MathsChecker() as checker:
        assert checker("x+1", "1+x") is Verdict.RIGHT
        checker.close()
        monkeypatch.setattr(subprocess, "Popen", None)
        assert checker("x+1", "1+x") is Verdict.RIGHT


@pytest.mark.parametrize(
    ("reasoning", "answer", "concluded"),
    [
        ("The car is big. So the colour is dark red.", "dark red", True),
        ("2 + 2 gives 4, so option B.", "B", True),
        ("It could be black. The crop shows it is not black, but navy.", "black", False),
        ("It looks black at first." + " I look again." * 60 + " It is navy.", "black", False),
        ("I cannot see it.", "black", False),
        ("", "black", False),
        ("black", "", False),
    ],
)
def test_a_conclusion_is_found_only_at_the_end_and_not_negated(
    reasoning: str, answer: str, concluded: bool
) -> None:
    assert answer_is_concluded(reasoning, answer) is concluded
