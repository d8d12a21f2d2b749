"""The report of a data job: ``report.json`` for programs, ``report.txt`` for people.

It holds counts only, no times, so that an interrupted job leaves the same one.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from swift_thyme.data.reasons import Reason
from swift_thyme.data.worker import write_atomically

__all__ = ["Report", "render_report", "write_report"]


DOMINANT = 0.6
"""Share of the solutions from which one of them is reported. Yes-or-no questions stay below."""
FEWEST_ROWS = 10
"""Of fewer rows a share says little."""
MOST_ANSWERS = 10
"""Solutions that the report names."""


@dataclass
class Report:
    """Counts of a finished job."""

    kind: str
    """``sft`` or ``rl``."""
    inputs: list[str]
    """What was read."""
    rows: int = 0
    kept: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejected rows per reason."""
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per split: ``with_images``, ``without_images``, ``rejected``."""
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per split of an RL job: the solutions that most kept rows have, and how many have each."""
    image_references: int = 0
    """Images of the kept rows."""
    distinct_images: int = 0
    """Files that they are."""
    executed_rows: int = 0
    """Rows whose code was run, those rejected for it included."""
    executed_blocks: int = 0
    repaired_blocks: int = 0
    """Blocks that ran only because the sandbox repaired them."""

    def add(self, split: str, head: Mapping[str, Any], kinds: Counter[bytes]) -> None:
        """Add what became of one shard."""
        self.rows += head["rows"]
        self.kept += kinds[b"I"] + kinds[b"T"]
        self.rejected += kinds[b"R"]
        self.image_references += head["images"]
        self.executed_rows += head["executed"]
        self.executed_blocks += head["blocks"]
        self.repaired_blocks += head["repaired"]
        for reason, count in head["reasons"].items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        counts = self.splits.setdefault(
            split, {"with_images": 0, "without_images": 0, "rejected": 0}
        )
        counts["with_images"] += kinds[b"I"]
        counts["without_images"] += kinds[b"T"]
        counts["rejected"] += kinds[b"R"]

    def add_answers(self, split: str, found: Counter[str]) -> None:
        """Note the solutions of a split's rows."""
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        self.answers[split] = dict(ordered[:MOST_ANSWERS])

    @property
    def warnings(self) -> list[str]:
        """What somebody should look at before training, a sentence each."""
        found = []
        for split, answers in sorted(self.answers.items()):
            counts = self.splits[split]
            rows = counts["with_images"] + counts["without_images"]
            for answer, count in list(answers.items())[:1]:
                if rows >= FEWEST_ROWS and count >= DOMINANT * rows:
                    found.append(
                        f"{split}: {count} of {rows} solutions are {answer!r}; a model that always "
                        "says so is right that often. Balance the rows (options are shuffled "
                        "unless --no-shuffle is given)"
                    )
        return found

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a ``report.json``."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def render_report(report: Report, console: Console) -> None:
    """Print the report."""
    share = 100 * report.kept / report.rows if report.rows else 0.0
    console.print(
        f"{report.rows} rows: {report.kept} kept ({share:.1f} %), {report.rejected} rejected; "
        f"{report.image_references} images, {report.distinct_images} different ones"
    )
    if report.executed_rows:
        console.print(
            f"{report.executed_rows} rows executed, {report.executed_blocks} blocks, "
            f"{report.repaired_blocks} of them repaired by the sandbox"
        )
    splits = Table(box=box.SIMPLE)
    for title in ("split", "with images", "without images", "rejected"):
        splits.add_column(title, justify="left" if title == "split" else "right")
    for name, counts in sorted(report.splits.items()):
        splits.add_row(escape(name), *(str(counts[key]) for key in counts))
    console.print(splits)
    for split, answers in sorted(report.answers.items()):
        listed = ", ".join(f"{answer[:40]!r} {count}" for answer, count in answers.items())
        console.print(Text(f"most frequent solutions of {split}: {listed}"))
    for warning in report.warnings:
        console.print(Text(f"warning: {warning}", "yellow"))
    if report.reasons:
        reasons = Table(box=box.SIMPLE)
        reasons.add_column("rejected for")
        reasons.add_column("rows", justify="right")
        reasons.add_column("meaning")
        for name, count in sorted(report.reasons.items(), key=lambda item: (-item[1], item[0])):
            reasons.add_row(name, str(count), Reason(name).text)
        console.print(reasons)


def write_report(report: Report, out: Path, scratch: Path) -> None:
    """Write ``report.txt`` and ``report.json``."""
    report.reasons = dict(sorted(report.reasons.items()))
    report.splits = dict(sorted(report.splits.items()))
    text = io.StringIO()
    render_report(report, Console(file=text, width=110, color_system=None, highlight=False))
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    write_atomically(out / "report.txt", lines.encode(), scratch)
    data = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "report.json", data.encode(), scratch)
