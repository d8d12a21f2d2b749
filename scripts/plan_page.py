"""usage: python scripts/plan_page.py [--write]

Prints what `thyme plan` chooses for models of usual sizes, and its peaks beside measured ones, as
Markdown, or writes both into docs/your_model.md. tests/plan/ holds the peaks to each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from generated_page import DOCS, GeneratedPage

from swift_thyme.core.errors import SettingsError
from swift_thyme.plan.choose import Choice, Wish, choose_rl, choose_sft
from swift_thyme.plan.known import find_sizes
from swift_thyme.plan.memory import Job, estimate

CARD_GIB = 79.6
"""What nvidia-smi says of a GPU of 80 GB."""
SIZES, GPUS = ("3B", "7B", "8B", "30B-A3B"), (1, 2, 4, 8)
LENGTH, COMPLETION = 10240, 3196
"""Tokens, those of the recipe."""


@dataclass(frozen=True)
class Measured:
    """A job whose cards were watched."""

    title: str
    size: str
    job: Job
    peak_gib: float
    """Of the fullest card, by nvidia-smi."""


MEASURED = (
    Measured(
        "`rl.sh`, full training",
        "3B",
        Job(gpus=4, card_gib=CARD_GIB, share=0.55, length=LENGTH, trained=COMPLETION),
        73.5,
    ),
    Measured(
        "`rl.sh`, full training, scripted trajectories",
        "3B",
        Job(gpus=4, card_gib=CARD_GIB, share=0.55, length=5000, trained=1500),
        68.0,
    ),
    Measured(
        "`rl.sh`, LoRA, ZeRO-2, completions of 1024",
        "3B",
        Job(card_gib=139.8, share=0.4, full=False, zero=2, length=4500, trained=1024),
        67.2,
    ),
)
"""Two on H100, one on an H200. Lengths are those that were reached; of the first job they are not
known, and the recipe's are entered."""


def plans() -> str:
    """Return the table of what is chosen."""
    lines = ["| model | GPUs | SFT | GRPO |", "| --- | --- | --- | --- |"]
    for size in SIZES:
        sizes = find_sizes(size)
        for gpus in GPUS:
            wish = Wish(gpus, CARD_GIB, LENGTH, COMPLETION)
            cells = []
            for choose in (choose_sft, choose_rl):
                try:
                    cells.append(_cell(choose(wish, sizes)))
                except SettingsError:
                    cells.append("does not fit")
            lines.append(f"| {size} | {gpus} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(choice: Choice) -> str:
    job = choice.job
    words = ["full" if job.full else "LoRA", f"ZeRO-{job.zero}"]
    words += [f"vLLM {job.share:g}"] if job.share else []
    words += [f"over {job.tensor_parallel} GPUs"] if job.tensor_parallel > 1 else []
    words += ["vLLM sleeps"] if job.sleeps else []
    words += ["offloaded"] if job.offloads else []
    return f"{', '.join(words)}: {choice.estimate.peak:.0f} GiB"


def peaks() -> str:
    """Return the table of measured peaks."""
    return "\n".join(_peak_lines()) + "\n"


def _peak_lines() -> Iterator[str]:
    yield "| job | GPUs | vLLM's share | longest trajectory, completion | computed | measured |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for measured in MEASURED:
        job = measured.job
        peak = estimate(job, find_sizes(measured.size)).peak
        yield (
            f"| {measured.size}, {measured.title} | {job.gpus} of {job.card_gib:g} GiB "
            f"| {job.share:g} | {job.length}, {job.trained} | {peak:.1f} GiB "
            f"| {measured.peak_gib:.1f} GiB |"
        )


PAGES = tuple(
    GeneratedPage(DOCS / "your_model.md", mark, content)
    for mark, content in (("plans", plans), ("peaks", peaks))
)

if __name__ == "__main__":
    for page in PAGES:
        page.main(__doc__)
