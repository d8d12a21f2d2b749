"""Modules under the names that programs of users know."""

from swift_thyme import answers
from swift_thyme.answers.maths import MathsChecker
from swift_thyme.rewards import maths, rules


def test_the_former_names_are_the_same_objects() -> None:
    assert rules.match_answer is answers.rules.match_answer
    assert rules.Verdict is answers.verdict.Verdict
    assert maths.MathsChecker is MathsChecker
