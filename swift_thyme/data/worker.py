"""One worker process: takes shards from its pipe and writes what becomes of their rows.

The result of a shard is one file. Its first line holds counts; every other line is a row behind a
letter that says where it goes: ``I`` with images, ``T`` without, ``R`` rejected. It appears under
its name when it is complete, so its existence says that the shard is done.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from swift_thyme.core.errors import DataError, SandboxUnavailableError, ThymeError
from swift_thyme.data.job_options import JobOptions
from swift_thyme.data.option_order import AnswerBalance
from swift_thyme.data.pictures import ImageStore
from swift_thyme.data.reasons import Reason, RowRejected
from swift_thyme.data.rows import COLUMNS, BuiltRow, RowPlace, build_row
from swift_thyme.data.sources import RawRow, RowReader, Shard, Source, open_reader

__all__ = ["Assignment", "Message", "encode_line", "result_path", "serve", "write_atomically"]

GROUP_ROWS = 16
"""Rows whose pictures are in memory at a time, and whose code runs together."""


class Assignment(NamedTuple):
    """A shard to work on."""

    number: int
    shard: Shard
    crashed: frozenset[int] = frozenset()
    """Numbers of the rows that ended a worker twice; they are rejected unread."""


class Message(NamedTuple):
    """What a worker tells its parent."""

    kind: str
    """``rows`` (progress), ``done`` (shard finished), ``failed`` (the job must end)."""
    rows: int = 0
    images: int = 0
    text: str = ""
    sandbox: bool = False
    """Of ``failed``: whether it was the sandbox."""


@dataclass
class _Counts:
    rows: int = 0
    images: int = 0
    executed: int = 0
    blocks: int = 0
    repaired: int = 0
    listed: int = 0
    """Rows whose solution is a list of equally good ones."""


def result_path(options: JobOptions, number: int) -> Path:
    """Return where the result of a shard is, or will be."""
    return options.work_dir / "shards" / f"{number:06d}"


def write_atomically(path: Path, data: bytes, scratch: Path) -> None:
    """Write a file that appears under its name when it is complete and on disk."""
    temporary = scratch / f"{path.name}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def serve(connection: Connection, options: JobOptions, sources: list[Source], current: Any) -> None:
    """Work until the parent closes the pipe (main function of the process).

    Args:
        connection: Brings assignments, takes messages.
        options: The job's.
        sources: The input files.
        current: Shared number of the row that is being decoded, 0 between rows.
    """
    _die_with_parent()
    # Sizes are checked row by row, with a message that names the row.
    Image.MAX_IMAGE_PIXELS = None
    worker = _Worker(options, sources, connection, current)
    try:
        while True:
            assignment = connection.recv()
            worker.work(assignment)
    except EOFError:
        return
    except (KeyboardInterrupt, BrokenPipeError):
        return
    except ThymeError as error:
        broken = isinstance(error, SandboxUnavailableError)
        connection.send(Message("failed", text=f"{worker.place}: {error}", sandbox=broken))
    except Exception:  # noqa: BLE001 - told to the parent, which ends the job with it
        text = f"{worker.place}: unexpected error\n{traceback.format_exc()}"
        connection.send(Message("failed", text=text))
    finally:
        worker.close()


def _die_with_parent() -> None:
    # A parent that was killed must not leave workers that write beside those of the next run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        from swift_thyme.sandbox import linux

        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError:
        pass  # the end of the pipe ends the worker, only later
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it went before the kernel was asked to tell


class _Worker:
    def __init__(
        self, options: JobOptions, sources: list[Source], connection: Connection, current: Any
    ) -> None:
        self._options = options
        self._sources = sources
        self._connection = connection
        self._current = current
        self._scratch = options.work_dir / "tmp"
        self._store = ImageStore(options.images_dir, self._scratch)
        self._reader: tuple[int, RowReader] | None = None
        self._pool: Any = None
        self._balance = AnswerBalance()
        self.place = "start"
        """What is being worked on, for messages."""

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def work(self, assignment: Assignment) -> None:
        shard = assignment.shard
        source = self._sources[shard.source]
        self.place = f"{source.path} rows {shard.start + 1} to {shard.stop}"
        counts = _Counts()
        reasons: Counter[str] = Counter()
        lines: list[bytes] = []
        # One per shard, whose rows are always built in the same order by one process.
        self._balance = AnswerBalance(keep=shard.start == 0)
        for group in _groups(self._rows_of(shard)):
            lines += self._finish(source, self._build(source, group, assignment), counts, reasons)
        head = {**counts.__dict__, "reasons": dict(sorted(reasons.items()))}
        data = b"".join([json.dumps(head).encode() + b"\n", *lines])
        write_atomically(result_path(self._options, assignment.number), data, self._scratch)
        self._connection.send(Message("done"))

    def _rows_of(self, shard: Shard) -> Iterator[RawRow]:
        if self._reader is None or self._reader[0] != shard.source:
            columns = COLUMNS[self._options.kind]
            reader = open_reader(self._sources[shard.source], columns)
            self._reader = (shard.source, reader)
        return self._reader[1].rows(shard)

    def _build(
        self, source: Source, group: list[RawRow], assignment: Assignment
    ) -> list[tuple[int, BuiltRow | RowRejected]]:
        root = Path(self._options.image_root or Path(source.path).parent)
        results: list[tuple[int, BuiltRow | RowRejected]] = []
        for row in group:
            self.place = f"{source.path} row {row.number}"
            self._current.value = row.number
            results.append((row.number, self._build_row(row, root, assignment.crashed)))
            self._current.value = 0
        return results

    def _reject(self, error: RowRejected) -> RowRejected:
        """Return what leaves a row out, or end the job with it."""
        if self._options.strict:
            raise DataError(f"{error} (--strict)") from error
        return error

    def _build_row(
        self, row: RawRow, root: Path, crashed: frozenset[int]
    ) -> BuiltRow | RowRejected:
        if row.number in crashed:
            return self._reject(RowRejected(Reason.IMAGE_CRASH, "the decoder ended the process"))
        if row.values is None:
            return self._reject(row.problem or RowRejected(Reason.BAD_JSON, "no values"))
        try:
            place = RowPlace(row.number, self._balance)
            return build_row(row.values, self._options, root, self._store, place)
        except RowRejected as error:
            return self._reject(error)

    def _finish(
        self,
        source: Source,
        results: list[tuple[int, BuiltRow | RowRejected]],
        counts: _Counts,
        reasons: Counter[str],
    ) -> list[bytes]:
        if self._options.execute:
            results = self._execute(source, results, counts)
        lines = []
        n_images = 0
        for number, result in results:
            if isinstance(result, RowRejected):
                reasons[str(result.reason)] += 1
                lines.append(b"R" + encode_line(_rejection(source, number, result)))
                continue
            for image in result.images:
                if image.data is not None:
                    self._store.put(image.path, image.data)
            n_images += len(result.images)
            counts.listed += isinstance(result.output.get("solution"), list)
            lines.append((b"I" if result.images else b"T") + encode_line(result.output))
        counts.rows += len(results)
        counts.images += n_images
        self._connection.send(Message("rows", len(results), n_images))
        return lines

    def _execute(
        self,
        source: Source,
        results: list[tuple[int, BuiltRow | RowRejected]],
        counts: _Counts,
    ) -> list[tuple[int, BuiltRow | RowRejected]]:
        from swift_thyme.data.execution import execute_rows

        good = [row for _, row in results if isinstance(row, BuiltRow)]
        outcomes = iter(asyncio.run(execute_rows(self._sandbox(), good, self._options.timeout_s)))
        after: list[tuple[int, BuiltRow | RowRejected]] = []
        for number, row in results:
            if isinstance(row, BuiltRow):
                outcome = next(outcomes)
                counts.executed += outcome.blocks > 0
                counts.blocks += outcome.blocks
                counts.repaired += outcome.repaired
                if outcome.problem is not None:
                    self.place = f"{source.path} row {number}"
                    row = self._reject(outcome.problem)
            after.append((number, row))
        return after

    def _sandbox(self) -> Any:
        if self._pool is None:
            import dataclasses

            from swift_thyme.sandbox import SandboxSettings, open_pool

            # Every worker of this job has a pool of its own: one process each fills the cores.
            settings = dataclasses.replace(SandboxSettings.from_env(), workers=1)
            self._pool = open_pool(settings)
        return self._pool


def _groups(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    group: list[RawRow] = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _rejection(source: Source, number: int, error: RowRejected) -> dict[str, Any]:
    # Half a surrogate pair cannot be written; the escape says what was there.
    detail = error.detail.encode("utf-8", "backslashreplace").decode("utf-8")
    return {
        "file": source.path,
        "row": number,
        "split": source.split,
        "reason": str(error.reason),
        "detail": detail,
    }


def encode_line(value: dict[str, Any]) -> bytes:
    """Return a row as a line of an output file."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n"
