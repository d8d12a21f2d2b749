"""Input files: which there are, how they are cut into shards, and how a shard's rows are read.

Rows are read a few at a time; neither a file nor a row group of a parquet file is ever held as a
whole. A shard is a run of consecutive rows of one file that one worker process reads for itself, so
that no row passes through the parent.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from swift_thyme.core.errors import DataError
from swift_thyme.data.reasons import Reason, RowRejected

__all__ = ["RawRow", "RowReader", "Shard", "Source", "find_sources", "open_reader", "plan_shards"]

BATCH_ROWS = 16
"""Rows that are read at a time."""

_SCAN_BYTES = 1 << 22
_LONGEST_REFERENCE = 64
"""A TSV image of at most this many characters is the index of the row that holds the image."""

_SHARD_NAME = re.compile(r"[-_]?\d{4,5}(?:-of-\d{4,5})?$")


class Source(NamedTuple):
    """One input file, or one split of a `datasets` folder."""

    path: str
    """File, or folder written by ``save_to_disk``."""
    kind: str
    """``parquet``, ``jsonl``, ``tsv`` or ``dataset``."""
    split: str
    """Name that the outputs of this source are filed under."""


class Shard(NamedTuple):
    """Consecutive rows of one source."""

    source: int
    """Position in the list of sources."""
    start: int
    """First row, from 0."""
    stop: int
    """Row after the last."""
    offset: int
    """Byte at which the first row begins (JSONL, TSV); 0 elsewhere."""


class RawRow(NamedTuple):
    """A row as it was read."""

    number: int
    """Number of the row in its file, from 1; in JSONL the number of the line."""
    values: dict[str, Any] | None
    """Its columns, None where the row cannot be read."""
    problem: RowRejected | None = None
    """Why it cannot be read."""


class RowReader(Protocol):
    """Reads shards of one source."""

    def rows(self, shard: Shard) -> Iterator[RawRow]:
        """Yield the rows of a shard in order."""
        ...


def _split_of(path: Path) -> str:
    """Return the split that a file's name, or its folder's, stands for."""
    name = _SHARD_NAME.sub("", path.stem)
    if not name or name.isdigit():
        name = path.parent.name
    return re.sub(r"[^\w.-]", "_", name) or "data"


def _dataset_sources(folder: Path) -> list[Source]:
    listing = folder / "dataset_dict.json"
    if listing.is_file():
        splits = json.loads(listing.read_text(encoding="utf-8"))["splits"]
        return [Source(str(folder / split), "dataset", split) for split in splits]
    return [Source(str(folder), "dataset", _split_of(folder / "x"))]


_KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".tsv": "tsv"}


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Return the sources below files and folders, in a fixed order.

    Raises:
        DataError: A path does not exist, or nothing readable is there; the message names it.
    """
    sources: list[Source] = []
    for text in inputs:
        path = Path(text)
        if path.is_file():
            if path.suffix not in _KINDS:
                raise DataError(f"{path}: not one of {', '.join(sorted(_KINDS))}")
            found = [Source(str(path), _KINDS[path.suffix], _split_of(path))]
        elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = _dataset_sources(path)
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in _KINDS and p.is_file())
            found = [Source(str(p), _KINDS[p.suffix], _split_of(p)) for p in files]
        else:
            raise DataError(f"{path}: no such file or folder")
        if not found:
            raise DataError(f"{path}: holds no .parquet, .jsonl or .tsv file")
        sources += found
    return sources


def plan_shards(sources: Sequence[Source], rows_per_shard: int) -> list[Shard]:
    """Cut every source into shards.

    Raises:
        DataError: A file cannot be read; the message names it.
    """
    shards: list[Shard] = []
    for index, source in enumerate(sources):
        try:
            shards += _CUTTERS[source.kind](index, Path(source.path), rows_per_shard)
        except (OSError, ValueError, csv.Error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{source.path}: cannot be read: {error}") from error
    return shards


def _cut(index: int, first: int, n_rows: int, size: int) -> Iterator[Shard]:
    for start in range(first, first + n_rows, size):
        yield Shard(index, start, min(start + size, first + n_rows), 0)


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{path}: reading it needs pip install 'swift_thyme[data]'") from error
    # Memory mapping lets the system drop pages that were read; a buffer of a column would hold
    # all of it.
    return ParquetFile(path, memory_map=True)


def _cut_parquet(index: int, path: Path, size: int) -> Iterator[Shard]:
    with _parquet_file(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            yield from _cut(index, first, n_rows, size)
            first += n_rows


def _cut_dataset(index: int, path: Path, size: int) -> Iterator[Shard]:
    return _cut(index, 0, len(_load_dataset(path)), size)


def _cut_jsonl(index: int, path: Path, size: int) -> Iterator[Shard]:
    """Cut at every `size` lines, by counting line breaks in large blocks."""
    with path.open("rb") as file:
        start, offset, lines, position = 0, 0, 0, 0
        while block := file.read(_SCAN_BYTES):
            at = 0
            while lines + block.count(b"\n", at) >= start + size:
                for _ in range(start + size - lines):
                    at = block.index(b"\n", at) + 1
                lines = start + size
                yield Shard(index, start, lines, offset)
                start, offset = lines, position + at
            lines += block.count(b"\n", at)
            position += len(block)
            ends_open = not block.endswith(b"\n")
        if position and (lines + ends_open) > start:
            yield Shard(index, start, lines + ends_open, offset)


def _cut_tsv(index: int, path: Path, size: int) -> Iterator[Shard]:
    with _TsvRecords(path) as records:
        start, offset, n_rows = 0, records.position, 0
        for _ in records:
            n_rows += 1
            if n_rows - start == size:
                yield Shard(index, start, n_rows, offset)
                start, offset = n_rows, records.position
    if n_rows > start:
        yield Shard(index, start, n_rows, offset)


_CUTTERS: dict[str, Any] = {
    "parquet": _cut_parquet,
    "jsonl": _cut_jsonl,
    "tsv": _cut_tsv,
    "dataset": _cut_dataset,
}


def open_reader(source: Source, columns: Sequence[str]) -> RowReader:
    """Return a reader of a source.

    Args:
        source: What to read.
        columns: Columns that are of use; others are skipped where that saves time.
    """
    path = Path(source.path)
    if source.kind == "parquet":
        return _ParquetReader(path, columns)
    if source.kind == "dataset":
        return _DatasetReader(path, columns)
    return _JsonlReader(path) if source.kind == "jsonl" else _TsvReader(path)


class _ParquetReader:
    """Reads a parquet file forwards; where the next shard lies ahead, it skips to it.

    A file can be one large row group, whose rows can only be reached from its beginning. Going on
    from the last shard makes a worker read such a group once in all.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = _parquet_file(path)
        present = self._file.schema_arrow.names
        self._columns = [name for name in columns if name in present]
        if not self._columns:
            raise DataError(f"{path}: has columns {present}, none of {list(columns)}")
        self._ends: list[int] = []
        for group in range(self._file.metadata.num_row_groups):
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self._file.metadata.row_group(group).num_rows)
        self._group = -1
        self._position = 0
        self._batches: Iterator[Any] = iter(())

    def rows(self, shard: Shard) -> Iterator[RawRow]:
        group = next(i for i, end in enumerate(self._ends) if shard.start < end)
        if group != self._group or self._position > shard.start:
            self._group = group
            self._position = self._ends[group - 1] if group else 0
            self._batches = self._file.iter_batches(
                batch_size=BATCH_ROWS, row_groups=[group], columns=self._columns, use_threads=False
            )
        while self._position < shard.stop:
            batch = next(self._batches)
            first = self._position
            self._position += batch.num_rows
            if self._position <= shard.start:
                continue
            low = max(0, shard.start - first)
            values = batch.slice(low, min(shard.stop - first, batch.num_rows) - low).to_pylist()
            for index, row in enumerate(values):
                yield RawRow(first + low + index + 1, row)
            if self._position > shard.stop:
                # The batch reaches into the next shard, which may be another worker's.
                self._group = -1


def _load_dataset(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path}: reading it needs pip install 'swift_thyme[data]'") from error
    return datasets.load_from_disk(str(path)).with_format("arrow")


class _DatasetReader:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._data = _load_dataset(path)
        present = self._data.column_names
        kept = [name for name in columns if name in present]
        if not kept:
            raise DataError(f"{path}: has columns {present}, none of {list(columns)}")
        self._data = self._data.select_columns(kept)

    def rows(self, shard: Shard) -> Iterator[RawRow]:
        for start in range(shard.start, shard.stop, BATCH_ROWS):
            table = self._data[start : min(start + BATCH_ROWS, shard.stop)]
            for index, values in enumerate(table.to_pylist()):
                yield RawRow(start + index + 1, values)


class _JsonlReader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, shard: Shard) -> Iterator[RawRow]:
        with self._path.open("rb") as file:
            file.seek(shard.offset)
            for number in range(shard.start + 1, shard.stop + 1):
                line = file.readline()
                if line.strip():
                    yield _parse_line(line, number)


def _parse_line(line: bytes, number: int) -> RawRow:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RawRow(number, None, RowRejected(Reason.BAD_JSON, str(error)[:200]))
    if not isinstance(values, dict):
        problem = RowRejected(Reason.BAD_JSON, f"the line is of type {type(values).__name__}")
        return RawRow(number, None, problem)
    return RawRow(number, values)


class _TsvRecords:
    """The records of a tab-separated file, with the byte at which the next one begins.

    Quoting is that of ``csv`` (and of pandas, which VLMEvalKit reads with): a quoted field may
    hold line breaks.
    """

    def __init__(self, path: Path, offset: int | None = None) -> None:
        # The largest value that fits a C long: a field may hold a picture of any size.
        csv.field_size_limit(sys.maxsize)
        self._file = path.open("rb")
        self.position = 0
        self._reader = csv.reader(self._lines(), delimiter="\t")
        header = next(self._reader, None)
        if header is None:
            raise DataError(f"{path}: is empty")
        self.header = [name.strip().removeprefix("\ufeff") for name in header]
        if offset is not None:
            self._file.seek(offset)
            self.position = offset

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline():
            self.position += len(line)
            # Bytes that are no UTF-8 become half surrogates, for which the row is rejected.
            yield line.decode("utf-8", errors="surrogateescape")

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self._reader)

    def __enter__(self) -> _TsvRecords:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class _TsvReader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] | None = None

    def rows(self, shard: Shard) -> Iterator[RawRow]:
        numbers = range(shard.start + 1, shard.stop + 1)
        with _TsvRecords(self._path, shard.offset) as records:
            for number, record in zip(numbers, records, strict=False):
                if not record:
                    continue
                if len(record) != len(records.header):
                    # A stray tab moves every cell behind it into another column.
                    detail = f"{len(record)} cells where the header has {len(records.header)}"
                    yield RawRow(number, None, RowRejected(Reason.BAD_TSV, detail))
                    continue
                values = self._values(records.header, record)
                image = values.get("image")
                if image and len(image) <= _LONGEST_REFERENCE:
                    values["image"] = self._referenced(image) or image
                yield RawRow(number, values)

    @staticmethod
    def _values(header: list[str], record: list[str]) -> dict[str, Any]:
        return {name: text or None for name, text in zip(header, record, strict=False)}

    def _referenced(self, index: str) -> str | None:
        """Return the image of the row with this index, None where there is no such row."""
        if self._offsets is None:
            self._offsets = self._index()
        offset = self._offsets.get(index)
        if offset is None:
            return None
        with _TsvRecords(self._path, offset) as records:
            image = self._values(records.header, next(iter(records))).get("image")
        return image if isinstance(image, str) else None

    def _index(self) -> dict[str, int]:
        offsets = {}
        with _TsvRecords(self._path) as records:
            offset = records.position
            for record in records:
                values = self._values(records.header, record)
                if len(values.get("image") or "") > _LONGEST_REFERENCE and values.get("index"):
                    offsets[str(values["index"])] = offset
                offset = records.position
        return offsets
