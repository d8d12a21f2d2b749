"""VLMEvalKit's TSV files, row by row: the images of a file may be larger than the memory.

A first pass checks every row and remembers where it stands; images are read again when their turn
comes. Nothing here knows what a question becomes or what is right.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import re
import string
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import ImageError, ImageFault, base64_bytes
from swift_thyme.core.pictures import header

__all__ = ["Dataset", "Item", "read_tsv"]

_REFERENCE_CHARS = 64
"""An image cell of at most this many characters names the row whose image it shares, as in
VLMEvalKit."""
_LISTED_OPTION = re.compile(r"\s*\(?([A-Z])[).:]\s*(.*)", re.DOTALL)
_OPTIONS_COLUMN = "multi-choice options"
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
    answer: str
    """Letter of the right option, or the reference of an open question."""
    categories: Mapping[str, str]
    """Value of each category column that the row fills."""
    fields: Mapping[str, str]
    """All columns but the images."""

    @property
    def references(self) -> tuple[str, ...]:
        """The accepted answers of an open question; VQA files list several."""
        if self.answer.startswith("["):
            listed = _string_list(self.answer)
            if listed:
                return tuple(listed)
        return (self.answer,)


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
        if "image" in self._header:
            span = self._spans[self._owners.get(item.index, item.index)]
            with open(self.path, "rb") as file:
                file.seek(span.start)
                text = file.read(span.end - span.start).decode("utf-8")
            (cells,) = _reader(io.StringIO(text, newline=""))
            return _decode_images(cells[self._header.index("image")], item.row)
        try:
            return [path.read_bytes() for path in _image_paths(self.path, item.fields, item.row)]
        except OSError as error:
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
        _check_header(header)
        items: list[Item] = []
        spans: dict[str, _Span] = {}
        shared: dict[str, str] = {}
        row, start = 0, lines.position
        for cells in reader:
            end = lines.position
            row += 1
            if cells:
                item = _item(path, header, cells, row)
                if item.index in spans:
                    other = next(i.row for i in items if i.index == item.index)
                    raise _RowError(row, f"index {item.index!r} is already that of row {other}")
                spans[item.index] = _Span(start, end)
                owner = _check_image_cell(path, header, cells, item)
                if owner is not None:
                    shared[item.index] = owner
                items.append(item)
            start = end
        for index, owner in shared.items():
            if owner not in spans or owner in shared:
                raise _RowError(
                    next(i.row for i in items if i.index == index),
                    f"the image cell {owner!r} is neither base64 nor the index of a row with an "
                    "image",
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


def _check_header(header: list[str]) -> None:
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


def _item(path: Path, header: list[str], cells: list[str], row: int) -> Item:
    if len(cells) != len(header):
        raise _RowError(row, f"{len(cells)} cells where the header has {len(header)}")
    values = dict(zip(header, cells, strict=True))
    for name in ("index", "question", "answer"):
        if not values[name].strip():
            raise _RowError(row, f"the cell {name!r} is empty")
    options = _options(values, row)
    answer = values["answer"].strip()
    if options:
        answer = _option_letter(answer, options, row)
    return Item(
        index=values["index"].strip(),
        row=row,
        question=values["question"],
        hint=values.get("hint", "").strip(),
        options=options,
        answer=answer,
        categories={
            name: values[name].strip() for name in _CATEGORY_COLUMNS if values.get(name, "").strip()
        },
        fields={name: cell for name, cell in values.items() if name != "image"},
    )


def _options(values: Mapping[str, str], row: int) -> dict[str, str]:
    options = {
        letter: values[letter].strip()
        for letter in string.ascii_uppercase
        if values.get(letter, "").strip()
    }
    listed = values.get(_OPTIONS_COLUMN, "").strip()
    if not options and listed:
        lines = _string_list(listed) or listed.splitlines()
        for line in lines:
            match = _LISTED_OPTION.fullmatch(line)
            if match is not None:
                options[match.group(1)] = match.group(2).strip()
        if not options:
            raise _RowError(
                row, f"no options can be read from {_OPTIONS_COLUMN!r}: {listed[:80]!r}"
            )
    expected = string.ascii_uppercase[: len(options)]
    if "".join(options) != expected or len(options) == 1:
        raise _RowError(row, f"options {', '.join(options)}: expected A, B and so on, at least two")
    return options


def _option_letter(answer: str, options: Mapping[str, str], row: int) -> str:
    letter = answer.strip("(). ").upper()
    if letter in options:
        return letter
    same = [key for key, text in options.items() if text == answer]
    if len(same) == 1:
        return same[0]
    raise _RowError(row, f"the answer {answer!r} is not one of the options {', '.join(options)}")


def _string_list(text: str) -> list[str]:
    """Return a list of strings that is written as a Python or JSON list; else an empty one."""
    if not text.startswith("["):
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return []


def _check_image_cell(path: Path, header: list[str], cells: list[str], item: Item) -> str | None:
    """Check that the images of a row can be opened; return the index of the row that holds them.

    None means the row itself.
    """
    if "image" not in header:
        for file in _image_paths(path, item.fields, item.row):
            if not file.is_file():
                raise _RowError(item.row, f"image_path {file}: no such file")
        return None
    cell = cells[header.index("image")].strip()
    if not cell:
        raise _RowError(item.row, "the cell 'image' is empty")
    if len(cell) <= _REFERENCE_CHARS and not cell.startswith("["):
        return cell
    for data in _decode_images(cell, item.row):
        _check_header_bytes(data, item.row)
    return None


def _decode_images(cell: str, row: int) -> list[bytes]:
    cell = cell.strip()
    texts = _string_list(cell) if cell.startswith("[") else [cell]
    if not texts:
        raise _RowError(row, "the cell 'image' is an unreadable list")
    images = []
    for text in texts:
        if text.startswith("data:"):
            text = text.partition(",")[2]
        try:
            images.append(base64_bytes(text))
        except ImageError as error:
            raise _RowError(row, str(error)) from error
    return images


def _check_header_bytes(data: bytes, row: int) -> None:
    try:
        header(data)
    except ImageError as error:
        if error.fault is ImageFault.TOO_LARGE:
            raise _RowError(row, str(error)) from error
        raise _RowError(row, "the base64 is not that of an image") from error


def _image_paths(tsv: Path, fields: Mapping[str, str], row: int) -> list[Path]:
    cell = fields.get("image_path", "").strip()
    if not cell:
        raise _RowError(row, "the cell 'image_path' is empty")
    names = _string_list(cell) or [cell]
    return [tsv.parent / name for name in names]
