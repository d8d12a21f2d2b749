"""Runs the trajectories of an evaluation and keeps them, so that a killed run goes on.

An evaluation lives in one folder::

    OUT/run.json              what is evaluated and how: another configuration is refused
    OUT/trajectories.jsonl    one line per trajectory, appended as they end (see ``records``)
    OUT/images/               prompts' and returned images
    OUT/verdicts.jsonl        what a judge said, one line per trajectory that rules left open
    OUT/report.json           what came out
    OUT/vlmeval/              predictions in VLMEvalKit's layout
    OUT/results.html          the page (one for all files of a command)

A trajectory counts as done once its line is whole. What fails on our side (the sandbox, the engine)
is not written, is counted as missing, and is tried again by the next call. So is a row that cannot
be used: a picture that does not decode, a prompt that is too long.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swift_thyme.answers.verdict import Verdict
from swift_thyme.core.errors import DataError, EngineError
from swift_thyme.core.summary import EndReason
from swift_thyme.core.trajectory_files import TrajectoryRecord, TrajectoryWriter, read_trajectories
from swift_thyme.data.option_order import ORDER_VERSION
from swift_thyme.evaluation.arms import PLAIN_REPLY, Arm, answer_of, loop_of, task_of
from swift_thyme.evaluation.items import PromptStyle, Shown, show
from swift_thyme.evaluation.matching import match
from swift_thyme.evaluation.tsv import Dataset, Item
from swift_thyme.inference.engine import Engine
from swift_thyme.inference.loop import FinishedTrajectory, LoopSettings, run_trajectory
from swift_thyme.inference.prompt_images import PromptImage, read_image
from swift_thyme.sandbox import SandboxBackend

__all__ = ["EvalSettings", "Evaluation", "Job", "Progress", "changes", "read_configuration"]

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 8
"""Trajectories that fail on our side one after the other before the run is given up."""
_SYNC_EVERY_S = 1.0


@dataclass(frozen=True)
class EvalSettings:
    """How items become trajectories; part of the configuration that may not change."""

    system: str
    loop: LoopSettings
    style: PromptStyle = PromptStyle.OPTIONS
    shuffle: bool = True
    """Whether options change places."""
    seed: int = 0
    """Seed of the order of options; sampling has ``loop.sampling.seed``."""


class Job(NamedTuple):
    """One trajectory to run."""

    item: Item
    run: int
    """From 1."""
    arm: Arm

    @property
    def id(self) -> str:
        """The id of its record."""
        return f"{self.item.index}/run{self.run}/{self.arm.value}"


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    failed: int
    total: int


class Evaluation:
    """One file evaluated in one folder.

    Args:
        dataset: The file.
        out: The folder; made if missing.
        settings: How.
        model: What decides about the model's tokens (``inference.model.describe``).

    Raises:
        DataError: The folder holds an evaluation with another configuration.
    """

    def __init__(
        self, dataset: Dataset, out: Path, settings: EvalSettings, model: dict[str, Any]
    ) -> None:
        self.dataset = dataset
        self.out = out
        self.settings = settings
        self.problems = dict(dataset.problems)
        """Why rows could not be used, by their numbers; a run adds to it."""
        self.configuration = _configuration(dataset, settings, model)
        """What may not change, as JSON values; that of the folder."""
        _claim(out, self.configuration)

    def show(self, item: Item, run: int) -> Shown:
        """Return an item as it is asked in a run."""
        settings = self.settings
        return show(
            item, style=settings.style, shuffle=settings.shuffle, seed=settings.seed, run=run
        )

    def records(self) -> dict[str, TrajectoryRecord]:
        """Return the trajectories that are done, by id."""
        path = self.out / "trajectories.jsonl"
        if not path.exists():
            return {}
        return {record.id: record for record in read_trajectories(path)}

    async def run(
        self,
        engine: Engine,
        pool: SandboxBackend,
        jobs: list[Job],
        *,
        concurrency: int,
        strict: bool = False,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Progress:
        """Run the jobs that are not done yet.

        Args:
            engine: Samples.
            pool: Runs code.
            jobs: What is wanted.
            concurrency: Trajectories at once.
            strict: Whether a row that cannot be used ends the run.
            on_progress: Called after each trajectory.

        Raises:
            DataError: The folder cannot be used, or with ``strict`` a row.
            EngineError: Too many trajectories in a row failed on our side.
        """
        with _lock(self.out):
            return await self._run(engine, pool, jobs, concurrency, strict, on_progress)

    async def _run(
        self,
        engine: Engine,
        pool: SandboxBackend,
        jobs: list[Job],
        concurrency: int,
        strict: bool,
        on_progress: Callable[[Progress], None],
    ) -> Progress:
        finished = set(self.records())
        todo = iter([job for job in jobs if job.id not in finished])
        done = len(jobs) - sum(1 for job in jobs if job.id not in finished)
        failed, in_a_row = 0, 0
        last_sync = time.monotonic()
        with TrajectoryWriter(self.out) as writer:

            async def work() -> None:
                nonlocal done, failed, in_a_row, last_sync
                for job in todo:
                    try:
                        record = await self._one(engine, pool, job, writer)
                    except DataError as error:
                        if strict:
                            where = f"{self.dataset.path}, row {job.item.row}"
                            raise DataError(f"{where}: {error}") from error
                        # No failure of ours, so it is none in a row of them.
                        self.problems[job.item.row] = str(error)
                        failed += 1
                        on_progress(Progress(done, failed, len(jobs)))
                        continue
                    except EngineError as error:
                        logger.error("%s: %s", job.id, error)
                        record, reason = None, error
                    else:
                        reason = EngineError("the sandbox failed")
                    if record is None:
                        failed, in_a_row = failed + 1, in_a_row + 1
                        if in_a_row >= _FAILURES_IN_A_ROW:
                            raise EngineError(
                                f"{in_a_row} trajectories in a row failed, the last one with: "
                                f"{reason} (the same command goes on where it stopped)"
                            ) from reason
                    else:
                        in_a_row = 0
                        done += 1
                        durable = time.monotonic() - last_sync > _SYNC_EVERY_S
                        writer.write(record, durable=durable)
                        last_sync = time.monotonic() if durable else last_sync
                    on_progress(Progress(done, failed, len(jobs)))

            on_progress(Progress(done, failed, len(jobs)))
            await _all_or_none([work() for _ in range(concurrency)])
            writer.write(durable=True)
        return Progress(done, failed, len(jobs))

    async def _one(
        self, engine: Engine, pool: SandboxBackend, job: Job, writer: TrajectoryWriter
    ) -> TrajectoryRecord | None:
        """Run a job; None where the sandbox failed."""
        shown = self.show(job.item, job.run)
        images = await asyncio.to_thread(self._images, job.item)
        task = task_of(
            job.arm,
            shown.question,
            images,
            system=self.settings.system,
            task_id=f"{self.dataset.name}/{job.item.index}/run{job.run}",
        )
        loop = loop_of(job.arm, self.settings.loop)
        finished: FinishedTrajectory | None = None
        async with aclosing(run_trajectory(engine, task, pool, loop, stream=False)) as events:
            async for event in events:
                if isinstance(event, FinishedTrajectory):
                    finished = event
        assert finished is not None
        if finished.summary.end_reason is EndReason.SANDBOX_FAILURE:
            return None
        answer = answer_of(job.arm, finished)
        found = match(shown, answer)
        score = {Verdict.RIGHT: 1.0, Verdict.WRONG: 0.0, Verdict.UNDECIDED: None}
        references = (
            (shown.answer_letter, shown.options[shown.answer_letter])
            if shown.order
            else job.item.references
        )
        return finished.to_record(
            writer,
            id=job.id,
            run=f"{self.dataset.name} {job.arm.value}",
            step=job.run,
            reference=references,
            answer=answer,
            rewards={"correct": score[found.verdict]},
            meta={
                "index": job.item.index,
                "run": job.run,
                "arm": job.arm.value,
                "order": list(shown.order),
                "choice": found.choice,
                **job.item.categories,
            },
        )

    def _images(self, item: Item) -> list[PromptImage]:
        return [read_image(data, index) for index, data in enumerate(self.dataset.images(item))]


async def _all_or_none(workers: list[Any]) -> None:
    """Run all workers; when one raises, cancel the others and raise that."""
    tasks = [asyncio.ensure_future(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _configuration(
    dataset: Dataset, settings: EvalSettings, model: dict[str, Any]
) -> dict[str, Any]:
    loop = dataclasses.asdict(settings.loop)
    # The first belongs to each job; the model's sampling says the second.
    del loop["tools"], loop["stop_repetition"]
    return {
        "data": dataset.name,
        "data_sha256": dataset.digest,
        "system": settings.system,
        "prompt": settings.style.value,
        "shuffle": settings.shuffle,
        # Answers are read by the order that was shown; another rule would misread them.
        "option_order": ORDER_VERSION,
        "seed": settings.seed,
        "plain_prompt": PLAIN_REPLY,
        **{f"model.{name}": value for name, value in model.items()},
        **{f"sampling.{name}": value for name, value in loop.pop("sampling").items()},
        **loop,
    }


def read_configuration(out: Path) -> dict[str, Any]:
    """Return the configuration of the evaluation in a folder; empty where there is none.

    Raises:
        DataError: It cannot be read.
    """
    path = out / "run.json"
    if not path.exists():
        return {}
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not JSON of ours: {error}") from error
    # A folder of a version that asked nothing plainly holds no answer to another plain prompt.
    return {"plain_prompt": PLAIN_REPLY, **known}


def changes(known: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return in words which values of two configurations differ; empty where none does."""
    return "; ".join(
        f"{name} was {_short(known.get(name))}, is {_short(now.get(name))}"
        for name in sorted(names)
        if known.get(name) != now.get(name)
    )


def _claim(out: Path, configuration: dict[str, Any]) -> None:
    known = read_configuration(out)
    if known:
        changed = changes(known, configuration, set(known) | set(configuration))
        if changed:
            raise DataError(
                f"{out} holds an evaluation with another configuration ({changed}); "
                "choose another --out, or give the same flags"
            )
    path = out / "run.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(configuration, indent=2, ensure_ascii=False), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error}") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second evaluation out of the folder; the lock ends with the process."""
    with open(out / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another evaluation is running in {out}") from error
        yield
