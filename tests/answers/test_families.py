"""Kinds of answers that were misread once: every pair has its verdict, most are decided."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from swift_thyme.answers.maths import MathsChecker
from swift_thyme.answers.rules import match_answer
from swift_thyme.answers.verdict import Verdict

from .family_pairs import FAMILIES

ALL_PAIRS = [(family, *pair) for family, (_, pairs) in FAMILIES.items() for pair in pairs]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_share_that_is_decided_is_as_large_as_promised(
    family: str, maths: MathsChecker
) -> None:
    least, pairs = FAMILIES[family]
    verdicts = [match_answer(*pair[:3], maths) for pair in pairs]
    decided = sum(verdict is not Verdict.UNDECIDED for verdict in verdicts)
    sys.stdout.write(f"{family}: {decided} of {len(pairs)} decided\n")
    assert decided / len(pairs) >= least


def test_no_pair_stands_twice_and_there_are_enough() -> None:
    assert len(ALL_PAIRS) >= 300
    assert len({pair[1:4] for pair in ALL_PAIRS}) == len(ALL_PAIRS)


def test_the_reference_itself_is_always_right(maths: MathsChecker) -> None:
    for _, _, reference, question, _ in ALL_PAIRS:
        assert match_answer(reference, reference, question, maths) is Verdict.RIGHT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_shows_more_than_one_verdict(family: str) -> None:
    assert len({pair[-1] for pair in FAMILIES[family][1]}) == len(Verdict)
