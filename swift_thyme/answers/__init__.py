"""Rules that compare an answer with its reference; rewards and evaluation stand on them.

``rules`` decides and calls the others: ``choices``, ``dates``, ``quantities``, ``maths``. A rule
gives a verdict only where it is certain; everything else stays undecided.
"""

from swift_thyme.answers.maths import MathsChecker
from swift_thyme.answers.rules import MathsCheck, answer_is_concluded, match_answer
from swift_thyme.answers.verdict import Verdict

__all__ = ["MathsCheck", "MathsChecker", "Verdict", "answer_is_concluded", "match_answer"]
