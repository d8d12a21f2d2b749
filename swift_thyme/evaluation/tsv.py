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
from contextlib import contextmanager
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
        problems: Mapping[int, str],
    ) -> None:
        self.path = path
        self.name = path.stem
        self.items = items
        self.digest = digest
        """SHA-256 of the file."""
        self.problems = problems
        """Why rows were left out, by their numbers."""
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
            found = _located(self.path, values)
            return [f if isinstance(f, bytes) else f.read_bytes() for f in found]
        except (OSError, ValueError, _RowError) as error:
            raise DataError(f"the images cannot be read any more: {error}") from error


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
            # Bytes that are no UTF-8 become half surrogates, for which the row is left out.
            yield line.decode("utf-8-sig" if first else "utf-8", errors="surrogateescape")


def _reader(lines: Iterator[str] | io.StringIO) -> Iterator[list[str]]:
    # An image of 8K pixels takes tens of megabytes in one cell.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return csv.reader(lines, delimiter="\t", strict=True)


def read_tsv(path: str | Path, *, strict: bool = False) -> Dataset:
    """Check a file and return it.

    Args:
        path: The file.
        strict: Whether a row that cannot be used is an error; otherwise it is left out and noted
            in :attr:`Dataset.problems`.

    Raises:
        DataError: The file, or with ``strict`` a row, cannot be used; the message names it and
            says why. So does a file without any row that can be used.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _Reading(path, strict).read(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


class _Reading:
    """One pass over a file."""

    def __init__(self, path: Path, strict: bool) -> None:
        self._path = path
        self._strict = strict
        self._items: dict[str, Item] = {}
        self._rows: dict[str, int] = {}
        """Number of the row that has an index."""
        self._spans: dict[str, _Span] = {}
        """Of the rows that have a good image."""
        self._shared: dict[str, str] = {}
        """Index of a row to the one whose image it shows."""
        self._problems: dict[int, str] = {}

    def read(self, file: IO[bytes]) -> Dataset:
        lines = _CountedLines(file)
        reader = _reader(iter(lines))
        row = 0
        try:
            header = next(reader, None)
            if not header:
                raise DataError("the file is empty")
            _check_columns(header)
            start = lines.position
            for cells in reader:
                row += 1
                if cells:
                    with self._noting(row):
                        self._add(header, cells, row, _Span(start, lines.position))
                start = lines.position
        except csv.Error as error:
            raise DataError(f"{self._path}, after row {row}: {error}") from error
        except DataError as error:
            raise DataError(f"{self._path}: {error}") from error
        for index, owner in list(self._shared.items()):
            with self._noting(self._rows[index]):
                self._find_owner(index, owner)
        if not self._items:
            first = next((f": row {row}: {text}" for row, text in self._problems.items()), "")
            raise DataError(f"{self._path}: there is no row that can be used{first}")
        items = list(self._items.values())
        digest = lines.digest.hexdigest()
        problems = dict(sorted(self._problems.items()))
        return Dataset(self._path, header, items, self._spans, self._shared, digest, problems)

    @contextmanager
    def _noting(self, row: int) -> Iterator[None]:
        try:
            yield
        except _RowError as error:
            if self._strict:
                raise DataError(f"{self._path}, row {row}: {error}") from error
            self._problems[row] = str(error)

    def _add(self, header: list[str], cells: list[str], row: int, span: _Span) -> None:
        values = _values(header, cells)
        index = values["index"].strip()
        if not index:
            raise _RowError("the cell 'index' is empty")
        if index in self._rows:
            raise _RowError(f"index {index!r} is already that of row {self._rows[index]}")
        self._rows[index] = row
        owner = _check_images(self._path, values)
        # The image may be good for other rows where the text is not for this one.
        self._spans[index] = span
        if owner is not None:
            self._shared[index] = owner
        self._items[index] = _item(values, row)

    def _find_owner(self, index: str, owner: str) -> None:
        if owner in self._spans and owner not in self._shared:
            return
        del self._shared[index]
        if owner not in self._rows and (self._path.parent / owner).is_file():
            return
        del self._spans[index]
        if self._items.pop(index, None) is not None:
            raise _RowError(
                f"the image cell {owner!r} is neither base64, nor a file, nor the index of a row "
                "with an image"
            )


class _RowError(DataError):
    """A row cannot be used."""


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


def _values(header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise _RowError(f"{len(cells)} cells where the header has {len(header)}")
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RowError("the row is not UTF-8") from error
    return dict(zip(header, cells, strict=True))


def _item(values: Mapping[str, str], row: int) -> Item:
    try:
        asked = read_question(values)
    except RowRejected as error:
        raise _RowError(error.detail) from error
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


def _check_images(path: Path, values: Mapping[str, str]) -> str | None:
    """Check that the images of a row can be opened; return the index of the row that holds them.

    None means the row itself.
    """
    cell = values.get("image", "").strip()
    if cell and len(cell) <= _REFERENCE_CHARS and not cell.startswith("["):
        return cell
    for image in _located(path, values):
        try:
            header(image)
        except ImageError as error:
            raise _RowError(str(error)) from error
    return None


def _located(path: Path, values: Mapping[str, str]) -> list[bytes | Path]:
    """Return the images of a row, those that lie in files unread."""
    try:
        found = image_values(values)
        images = [locate(value, root=path.parent).content for value in found]
    except RowRejected as error:
        raise _RowError(error.detail) from error
    except ImageError as error:
        raise _RowError(str(error)) from error
    if not images:
        name = "image" if "image" in values else "image_path"
        raise _RowError(f"the cell {name!r} is empty")
    return images
