"""VLMEvalKit's TSV files, row by row: the images of a file may be larger than the memory.

A first pass checks every row and remembers where it stands; images are read again when their turn
comes. Nothing here knows what a question becomes or what is right.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import ImageError, locate
from swift_thyme.core.pictures import header
from swift_thyme.data.question import image_values, read_question
from swift_thyme.data.reasons import RowRejected

__all__ = ["Dataset", "Item", "read_tsv"]

_REFERENCE_CHARS = 64
"""An image cell of at most this many characters names the row whose image it shares, as in
VLMEvalKit."""
_CATEGORY_COLUMNS = ("category", "l2-category", "cycle_category")


class _Span(NamedTuple):
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Item:
    """One row, without its images."""

    index: str
    row: int
    """Number of the row in the file, the first after the header being 1."""
    question: str
    hint: str
    options: Mapping[str, str]
    """Text of each option by its letter; empty for an open question."""
    references: tuple[str, ...]
    """The accepted answers of an open question, or the letter of the right option."""
    categories: Mapping[str, str]
    """Value of each category column that the row fills."""
    fields: Mapping[str, str]
    """All columns but the images."""

    @property
    def answer(self) -> str:
        """Letter of the right option, or the first reference of an open question."""
        return self.references[0]


class Dataset:
    """A TSV file whose rows have been checked; made by :func:`read_tsv`."""

    def __init__(
        self,
        path: Path,
        header: list[str],
        items: list[Item],
        spans: dict[str, _Span],
        owners: dict[str, str],
        digest: str,
    ) -> None:
        self.path = path
        self.name = path.stem
        self.items = items
        self.digest = digest
        """SHA-256 of the file."""
        self._header = header
        self._spans = spans
        self._owners = owners

    @property
    def columns(self) -> list[str]:
        """The columns but the images, in order."""
        return [name for name in self._header if name != "image"]

    @property
    def cyclic(self) -> bool:
        """Whether each question stands there once for every rotation of its options (HRBench)."""
        return "cycle_category" in self._header

    def images(self, item: Item) -> list[bytes]:
        """Return the encoded images of a row.

        Raises:
            DataError: They cannot be read any more.
        """
        span = self._spans[self._owners.get(item.index, item.index)]
        try:
            with open(self.path, "rb") as file:
                file.seek(span.start)
                text = file.read(span.end - span.start).decode("utf-8")
            (cells,) = _reader(io.StringIO(text, newline=""))
            values = dict(zip(self._header, cells, strict=True))
            found = _located(self.path, values, item.row)
            return [f if isinstance(f, bytes) else f.read_bytes() for f in found]
        except (OSError, ValueError, _RowError) as error:
            raise DataError(f"{self.path}, row {item.row}: {error}") from error


class _CountedLines:
    """Lines of a file as text, with the number of bytes handed out so far and their hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.position = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            first = self.position == 0
            self.position += len(line)
            self.digest.update(line)
            try:
                yield line.decode("utf-8-sig" if first else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"not UTF-8: {error}") from error


def _reader(lines: Iterator[str] | io.StringIO) -> Iterator[list[str]]:
    # An image of 8K pixels takes tens of megabytes in one cell.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return csv.reader(lines, delimiter="\t", strict=True)


def read_tsv(path: str | Path) -> Dataset:
    """Check a file and return it.

    Raises:
        DataError: The file or a row cannot be used; the message names it and says why.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _read(path, file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read(path: Path, file: IO[bytes]) -> Dataset:
    lines = _CountedLines(file)
    reader = _reader(iter(lines))
    try:
        header = next(reader, None)
        if not header:
            raise DataError("the file is empty")
        _check_columns(header)
        items: list[Item] = []
        spans: dict[str, _Span] = {}
        shared: dict[str, str] = {}
        row, start = 0, lines.position
        for cells in reader:
            end = lines.position
            row += 1
            if cells:
                values = _values(header, cells, row)
                item = _item(values, row)
                if item.index in spans:
                    other = next(i.row for i in items if i.index == item.index)
                    raise _RowError(row, f"index {item.index!r} is already that of row {other}")
                spans[item.index] = _Span(start, end)
                owner = _check_images(path, values, row)
                if owner is not None:
                    shared[item.index] = owner
                items.append(item)
            start = end
        for index, owner in list(shared.items()):
            if owner not in spans and (path.parent / owner).is_file():
                del shared[index]
            elif owner not in spans or owner in shared:
                raise _RowError(
                    next(i.row for i in items if i.index == index),
                    f"the image cell {owner!r} is neither base64, nor a file, nor the index of a "
                    "row with an image",
                )
        if not items:
            raise DataError("there is no row below the header")
    except csv.Error as error:
        raise DataError(f"{path}, after row {row}: {error}") from error
    except _RowError as error:
        raise DataError(f"{path}, row {error.row}: {error}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Dataset(path, header, items, spans, shared, lines.digest.hexdigest())


class _RowError(DataError):
    """A row cannot be used."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def _check_columns(header: list[str]) -> None:
    for name in ("index", "question", "answer"):
        if name not in header:
            raise DataError(f"the column {name!r} is missing; there are {', '.join(header)}")
    if "image" not in header and "image_path" not in header:
        raise DataError(
            f"the column 'image' (or 'image_path') is missing; there are {', '.join(header)}"
        )
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"the column {sorted(twice)[0]!r} stands there twice")


def _values(header: list[str], cells: list[str], row: int) -> dict[str, str]:
    if len(cells) != len(header):
        raise _RowError(row, f"{len(cells)} cells where the header has {len(header)}")
    return dict(zip(header, cells, strict=True))


def _item(values: Mapping[str, str], row: int) -> Item:
    if not values["index"].strip():
        raise _RowError(row, "the cell 'index' is empty")
    try:
        asked = read_question(values)
    except RowRejected as error:
        raise _RowError(row, error.detail) from error
    return Item(
        index=values["index"].strip(),
        row=row,
        question=asked.text,
        hint=asked.hint,
        options=asked.options,
        references=asked.references,
        categories={
            name: values[name].strip() for name in _CATEGORY_COLUMNS if values.get(name, "").strip()
        },
        fields={name: cell for name, cell in values.items() if name != "image"},
    )


def _check_images(path: Path, values: Mapping[str, str], row: int) -> str | None:
    """Check that the images of a row can be opened; return the index of the row that holds them.

    None means the row itself.
    """
    cell = values.get("image", "").strip()
    if cell and len(cell) <= _REFERENCE_CHARS and not cell.startswith("["):
        return cell
    for image in _located(path, values, row):
        _check_header(image, row)
    return None


def _located(path: Path, values: Mapping[str, str], row: int) -> list[bytes | Path]:
    """Return the images of a row, those that lie in files unread."""
    try:
        found = image_values(values)
        images = [locate(value, root=path.parent).content for value in found]
    except RowRejected as error:
        raise _RowError(row, error.detail) from error
    except ImageError as error:
        raise _RowError(row, str(error)) from error
    if not images:
        name = "image" if "image" in values else "image_path"
        raise _RowError(row, f"the cell {name!r} is empty")
    return images


def _check_header(image: bytes | Path, row: int) -> None:
    try:
        header(image)
    except ImageError as error:
        raise _RowError(row, str(error)) from error
