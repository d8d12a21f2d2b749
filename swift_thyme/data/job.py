"""The whole job: plan, worker processes, resumption, and the final files.

What is on disk says what is done: the plan (which shards there are, made of which files and
options), one result file per finished shard, and in the end the merged outputs. Each of them
appears complete or not at all, so the job can be killed at any moment and continued by the same
command; the outputs do not depend on where it was cut, on the number of workers or on their order.

This survives the end of any process. After a loss of power a picture can be lost that a finished
shard refers to, since pictures are not flushed to disk one by one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO

from swift_thyme.core.errors import DataError, SandboxUnavailableError, SettingsError, ThymeError
from swift_thyme.data import worker
from swift_thyme.data.conversion_report import Report, write_report
from swift_thyme.data.job_options import JobOptions
from swift_thyme.data.sources import Shard, Source, find_sources, plan_shards
from swift_thyme.data.worker import (
    Assignment,
    Message,
    encode_line,
    result_path,
    write_atomically,
)

__all__ = ["JobProgress", "run_job"]

logger = logging.getLogger(__name__)

FORMAT = 2
"""Changes when the same input would give other outputs."""

# Ends of a process that a decoder causes; SIGKILL of the memory guard says nothing of a row.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}

JobProgress = Callable[[int, int, int], None]
"""Called with rows done, rows in all, and pictures since the last call."""


def _ignore_progress(done: int, total: int, images: int) -> None:
    del done, total, images


@dataclass(frozen=True)
class _Plan:
    options: JobOptions
    sources: list[Source]
    shards: list[Shard]
    fingerprint: str

    @property
    def rows(self) -> int:
        return sum(shard.stop - shard.start for shard in self.shards)


def _make_plan(options: JobOptions) -> _Plan:
    sources = find_sources(options.inputs)
    # What decides about the result; the number of workers does not, and a strict job that comes to
    # its end has the same one.
    deciding = {k: v for k, v in asdict(options).items() if k not in ("workers", "strict")}
    stats = []
    for source in sources:
        path = Path(source.path)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats.append([[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    text = json.dumps([FORMAT, deciding, sources, stats])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    return _Plan(options, sources, plan_shards(sources, options.rows_per_shard), fingerprint)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder: two jobs in one would mix their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder.parent}: another job is writing there") from error
        yield


def run_job(
    options: JobOptions, progress: JobProgress = _ignore_progress, *, overwrite: bool = False
) -> Report:
    """Run a job, or finish one that was interrupted.

    Args:
        options: What to do.
        progress: Told how far it is.
        overwrite: Forget what another job left in the folder. Its pictures stay.

    Returns:
        The report, which is also in ``report.json``.

    Raises:
        DataError: An input cannot be read, the folder holds another job's work, or a row of a
            strict job was rejected.
        SettingsError: The sandbox was asked for where there is no code.
        SandboxUnavailableError: The sandbox failed; the job can be continued.
    """
    if options.execute and options.kind != "sft":
        raise SettingsError("--execute: rows for reinforcement learning hold no code")
    work = options.work_dir
    with _locked(work):
        plan = _make_plan(options)
        _take_over(plan, overwrite)
        report_file = Path(options.out) / "report.json"
        if (work / "complete").is_file() and report_file.is_file():
            progress(plan.rows, plan.rows, 0)
            report = Report.read(report_file)
            _check_strict(plan, report)
            return report
        shutil.rmtree(work / "tmp", ignore_errors=True)
        for folder in (work / "tmp", work / "shards", options.images_dir):
            folder.mkdir(parents=True, exist_ok=True)
        _work_off(plan, progress)
        report = _merge(plan)
        _check_strict(plan, report)
        write_atomically(work / "complete", b"", work / "tmp")
        shutil.rmtree(work / "shards", ignore_errors=True)
        shutil.rmtree(work / "tmp", ignore_errors=True)
        return report


def _check_strict(plan: _Plan, report: Report) -> None:
    """Refuse rejections of an earlier call that was not strict."""
    if plan.options.strict and report.rejected:
        listing = Path(plan.options.out) / "rejected.jsonl"
        raise DataError(f"{report.rejected} rows were rejected, see {listing} (--strict)")


def _take_over(plan: _Plan, overwrite: bool) -> None:
    """Check that the folder is new or holds this very job."""
    work, out = plan.options.work_dir, Path(plan.options.out)
    record = work / "plan.json"
    if overwrite:
        for path in (*out.glob("*.jsonl"), out / "report.json", out / "report.txt", record):
            path.unlink(missing_ok=True)
        (work / "complete").unlink(missing_ok=True)
        shutil.rmtree(work / "shards", ignore_errors=True)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    except FileNotFoundError:
        known = None
    if known is None:
        content = {"fingerprint": plan.fingerprint, "rows": plan.rows}
        (work / "tmp").mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(content).encode(), work / "tmp")
    elif known != plan.fingerprint:
        raise DataError(
            f"{out}: holds the work of another job (other input files or options); choose another "
            "--out or give --overwrite"
        )


@dataclass(eq=False)
class _Process:
    process: Any
    connection: Any
    current: Any
    assignment: Assignment | None = None


class _Crew:
    """The worker processes."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        # Not fork: this process has threads (progress bar, Arrow).
        self._context = multiprocessing.get_context("spawn")
        self.members: list[_Process] = []

    def hire(self) -> _Process:
        ours, theirs = self._context.Pipe()
        current = self._context.Value("q", 0, lock=False)
        process = self._context.Process(
            target=worker.serve,
            args=(theirs, self._plan.options, self._plan.sources, current),
            name="thyme-data",
        )
        process.start()
        theirs.close()
        member = _Process(process, ours, current)
        self.members.append(member)
        return member

    def dismiss(self, *, now: bool) -> None:
        for member in self.members:
            member.connection.close()
            if now:
                member.process.kill()
        for member in self.members:
            member.process.join()


def _work_off(plan: _Plan, progress: JobProgress) -> None:
    waiting: deque[Assignment] = deque()
    done = 0
    for number, shard in enumerate(plan.shards):
        if result_path(plan.options, number).is_file():
            done += shard.stop - shard.start
        else:
            waiting.append(Assignment(number, shard))
    progress(done, plan.rows, 0)
    if not waiting:
        return
    crew = _Crew(plan)
    suspects: dict[tuple[int, int], int] = {}
    finished = False
    try:
        for _ in range(min(plan.options.workers, len(waiting))):
            _assign(crew.hire(), waiting)
        while any(member.assignment for member in crew.members):
            ready = wait([member.connection for member in crew.members])
            for member in [m for m in crew.members if m.connection in ready]:
                try:
                    message: Message = member.connection.recv()
                except (EOFError, ConnectionResetError):
                    _replace(plan, crew, member, waiting, suspects)
                    continue
                if message.kind == "failed":
                    kind = SandboxUnavailableError if message.sandbox else ThymeError
                    raise kind(message.text)
                if message.kind == "rows":
                    done += message.rows
                    progress(done, plan.rows, message.images)
                else:
                    _assign(member, waiting)
        finished = True
    finally:
        crew.dismiss(now=not finished)


def _assign(member: _Process, waiting: deque[Assignment]) -> None:
    member.assignment = waiting.popleft() if waiting else None
    if member.assignment is not None:
        member.connection.send(member.assignment)


def _replace(
    plan: _Plan,
    crew: _Crew,
    member: _Process,
    waiting: deque[Assignment],
    suspects: dict[tuple[int, int], int],
) -> None:
    """Find out which row ended a worker, and go on with a new one."""
    member.process.join()
    code, row, assignment = member.process.exitcode, member.current.value, member.assignment
    crew.members.remove(member)
    member.connection.close()
    if assignment is None:
        return
    source = plan.sources[assignment.shard.source]
    where = f"{source.path} row {row}" if row else f"{source.path}, between two rows"
    ending = signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
    if not row or code is None or -code not in _CRASHES:
        raise ThymeError(f"a worker process ended ({ending}) at {where}")
    seen = suspects[assignment.number, row] = suspects.get((assignment.number, row), 0) + 1
    logger.warning("a worker process ended (%s) at %s, time %d", ending, where, seen)
    if seen > 1:
        assignment = assignment._replace(crashed=assignment.crashed | {row})
    waiting.appendleft(assignment)
    _assign(crew.hire(), waiting)


class _Outputs:
    """The final files in the making."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._out = out
        self._scratch = scratch
        self._files: dict[str, BinaryIO] = {}

    def write(self, name: str, line: bytes) -> None:
        if name not in self._files:
            self._files[name] = (self._scratch / name).open("wb")
        self._files[name].write(line)

    def publish(self) -> None:
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(self._scratch / name, self._out / name)


def _merge(plan: _Plan) -> Report:
    out, scratch = Path(plan.options.out), plan.options.work_dir / "tmp"
    outputs = _Outputs(out, scratch)
    report = Report(kind=plan.options.kind, inputs=list(plan.options.inputs))
    outputs.write("rejected.jsonl", b"")
    pictures: set[bytes] = set()
    answers: dict[str, Counter[str]] = {}
    listed = _splits_with_lists(plan)
    for number, shard in enumerate(plan.shards):
        split = plan.sources[shard.source].split
        kinds: Counter[bytes] = Counter()
        with result_path(plan.options, number).open("rb") as file:
            head = json.loads(file.readline())
            for line in file:
                letter, content = line[:1], line[1:]
                kinds[letter] += 1
                if letter == b"I":
                    row = json.loads(content)
                    pictures.update(_picture_keys(row))
                    if plan.options.kind == "rl":
                        solutions = row["solution"]
                        if isinstance(solutions, str):
                            solutions = [solutions]
                            if split in listed:
                                content = encode_line(row | {"solution": solutions})
                        answers.setdefault(split, Counter())[solutions[0]] += 1
                outputs.write(_file_name(plan.options.kind, split, letter), content)
        report.add(split, head, kinds)
    for split, found in answers.items():
        report.add_answers(split, found)
    report.distinct_images = len(pictures)
    outputs.publish()
    write_report(report, out, scratch)
    return report


def _splits_with_lists(plan: _Plan) -> set[str]:
    """Return the splits in which a row has several equally good solutions.

    All their rows get lists. `datasets` decides on a column's type by the first megabytes of a
    file: where those hold text alone, a later list becomes its JSON text, which nobody answers.
    """
    splits = set()
    for number, shard in enumerate(plan.shards):
        with result_path(plan.options, number).open("rb") as file:
            if json.loads(file.readline())["listed"]:
                splits.add(plan.sources[shard.source].split)
    return splits


def _picture_keys(row: dict[str, Any]) -> Iterator[bytes]:
    """Yield a short key of each picture: half a million paths would fill the memory."""
    for path in row["images"]:
        yield hashlib.blake2b(path.encode(), digest_size=12).digest()


def _file_name(kind: str, split: str, letter: bytes) -> str:
    if letter == b"R":
        return "rejected.jsonl"
    if kind == "rl":
        return f"{split}.rl.jsonl"
    return f"{split}.images.jsonl" if letter == b"I" else f"{split}.text.jsonl"
