"""Comparison of expressions, under the name that it had before :mod:`swift_thyme.answers`.

Programs of users import it from here; new ones should import from there.
"""

from swift_thyme.answers.maths import MathsChecker

__all__ = ["MathsChecker"]
