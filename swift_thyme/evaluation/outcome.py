"""One trajectory and what it is worth, by rules and by a judge."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from swift_thyme.answers.rules import MathsCheck
from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.trajectory_files import TrajectoryRecord
from swift_thyme.evaluation.matching import Match, match
from swift_thyme.evaluation.run import Evaluation, Job

__all__ = ["Outcome", "group_of", "outcomes"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trajectory and what it is worth."""

    job: Job
    record: TrajectoryRecord
    match: Match
    judged: float | None = None
    """Score of a judge where the rules left the answer undecided; None where none was asked."""
    judge_failed: bool = False
    """Whether a judge was asked and gave no verdict."""

    @property
    def score(self) -> float | None:
        """1 right, 0 wrong; None where a judge was needed and failed."""
        if self.match.verdict is not Verdict.UNDECIDED:
            return float(self.match.verdict is Verdict.RIGHT)
        if self.judge_failed:
            return None
        return self.judged if self.judged is not None else 0.0


def outcomes(
    evaluation: Evaluation, jobs: list[Job], maths: MathsCheck | None = None
) -> list[Outcome]:
    """Return the outcome of every job that is done, by rules alone."""
    records = evaluation.records()
    return [
        Outcome(
            job,
            records[job.id],
            match(evaluation.show(job.item, job.run), records[job.id].answer, maths),
        )
        for job in jobs
        if job.id in records
    ]


def group_of(outcome: Outcome) -> Hashable:
    """Return what is equal for trajectories that are no independent evidence.

    That are all with the same first picture: the runs of a row, the rotations of a question (which
    HRBench's files hold), and several questions about one picture. A row without a picture stands
    for itself.
    """
    images = outcome.record.images
    return images[0].file if images else outcome.job.item.index
