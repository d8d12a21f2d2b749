"""The rules that compare answers, under the name that they had before :mod:`swift_thyme.answers`.

Programs of users import them from here; new ones should import from there.
"""

from swift_thyme.answers.rules import match_answer
from swift_thyme.answers.verdict import Verdict

__all__ = ["Verdict", "match_answer"]
