"""Logs of runs as ms-swift leaves them: ``vN-.../logging.jsonl`` and ``args.json``."""

import json
from pathlib import Path
from typing import Any


def step_line(step: int, reward: float, **metrics: float) -> dict[str, Any]:
    """Return the line of a logging step."""
    return {"reward": reward, **metrics, "global_step/max_steps": f"{step}/9"}


def eval_line(step: int, reward: float) -> dict[str, Any]:
    """Return the line of an evaluation."""
    return {"eval_reward": reward, "global_step/max_steps": f"{step}/9"}


def write_run(
    folder: Path, *lines: dict[str, Any], resumed_from: Path | None = None, **arguments: Any
) -> Path:
    """Append to the log of an output folder, as a job does, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "logging.jsonl", "a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)
    checkpoint = str(resumed_from) if resumed_from else None
    args = {"resume_from_checkpoint": checkpoint, "resume_only_model": False, **arguments}
    (folder / "args.json").write_text(json.dumps(args))
    return folder


def resumed_run(out: Path) -> Path:
    """Write a run of 4 steps, and one that went on after its step 2; return the newer folder."""
    first = write_run(
        out / "v0-20260101-000000",
        *[eval_line(0, 0.1), step_line(1, 1.0), step_line(2, 2.0), eval_line(2, 0.2)],
        *[step_line(3, 3.0), step_line(4, 4.0), eval_line(4, 0.4)],
    )
    return write_run(
        out / "v1-20260102-000000",
        *[step_line(3, 30.0), step_line(4, 40.0), step_line(5, 50.0), eval_line(5, 0.5)],
        resumed_from=first / "checkpoint-2",
    )
