"""How values are written for another process of the sandbox, and read from one that may be hostile.

A `Form` describes one kind of value: how it becomes JSON and which JSON is taken for it. Bytes of
images do not go into the JSON but into a list beside it, their blobs. Reading checks types, ranges
and lengths, takes no field that is not known, and fails with `WireError` and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args, get_type_hints

from swift_thyme.core.errors import SettingsError

__all__ = [
    "Form",
    "WireError",
    "any_text",
    "blob",
    "choice",
    "clean_text",
    "either",
    "flag",
    "many",
    "mapping",
    "maybe",
    "number",
    "read_json",
    "record",
    "text",
    "whole",
    "write_json",
]

Blobs = list[bytes]
E = TypeVar("E", bound=Enum)


class WireError(ValueError):
    """Another process sent something that it may not send."""


class Form(NamedTuple):
    """One kind of value on the wire."""

    write: Callable[[Any, Blobs], Any]
    """Return the JSON of a value; append its blobs."""
    read: Callable[[Any, Blobs], Any]
    """Return the value of some JSON, or raise `WireError`."""


def _refuse(name: str) -> NoReturn:
    raise WireError(f"{name} is no number")


# A program may put other functions in the place of those of `json`.
_DECODER = json.JSONDecoder(parse_constant=_refuse)
_ENCODER = json.JSONEncoder(check_circular=False)


def write_json(value: dict[str, Any]) -> bytes:
    """Return the JSON of an object, in ASCII."""
    return _ENCODER.encode(value).encode()


def read_json(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the object that some JSON holds.

    Raises:
        WireError: It holds no object, or is no JSON.
    """
    try:
        value = _DECODER.decode(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {error}") from error
    if type(value) is not dict:
        raise WireError("no JSON object")
    return value


def _as_it_is(value: Any, blobs: Blobs) -> Any:
    return value


def whole(low: int, high: int) -> Form:
    """Return the form of a whole number from `low` to `high`."""

    def read(value: Any, blobs: Blobs) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WireError(f"no whole number from {low} to {high}")
        return value

    return Form(_as_it_is, read)


def number(low: float, high: float) -> Form:
    """Return the form of a number from `low` to `high`, which is never NaN."""

    def read(value: Any, blobs: Blobs) -> float:
        if type(value) not in (int, float) or not low <= value <= high or math.isnan(value):
            raise WireError(f"no number from {low} to {high}")
        return float(value)

    return Form(_as_it_is, read)


def flag() -> Form:
    """Return the form of a truth value."""

    def read(value: Any, blobs: Blobs) -> bool:
        if type(value) is not bool:
            raise WireError("no truth value")
        return value

    return Form(_as_it_is, read)


def any_text(limit: int) -> Form:
    """Return the form of at most `limit` characters, which may be halves of surrogate pairs.

    For what a model wrote as its program, and for paths: their readers know what to do with them.
    """

    def read(value: Any, blobs: Blobs) -> str:
        if type(value) is not str or len(value) > limit:
            raise WireError(f"no text of at most {limit} characters")
        return value

    return Form(_as_it_is, read)


def text(limit: int) -> Form:
    """Return the form of at most `limit` characters that UTF-8 can express."""
    plain = any_text(limit).read

    def read(value: Any, blobs: Blobs) -> str:
        checked: str = plain(value, blobs)
        if not checked.isascii():
            try:
                checked.encode()
            except UnicodeEncodeError as error:
                raise WireError("text with half a surrogate pair") from error
        return checked

    return Form(_as_it_is, read)


def choice(kind: type[E]) -> Form:
    """Return the form of a member of a closed set of words."""
    members = {member.value: member for member in kind}

    def write(value: E, blobs: Blobs) -> Any:
        return value.value

    def read(value: Any, blobs: Blobs) -> E:
        member = members.get(value) if type(value) is str else None
        if member is None:
            raise WireError(f"no {kind.__name__}")
        return member

    return Form(write, read)


def maybe(form: Form) -> Form:
    """Return the form of a value that may be missing."""

    def write(value: Any, blobs: Blobs) -> Any:
        return None if value is None else form.write(value, blobs)

    def read(value: Any, blobs: Blobs) -> Any:
        return None if value is None else form.read(value, blobs)

    return Form(write, read)


def many(form: Form, limit: int) -> Form:
    """Return the form of a tuple of at most `limit` values."""

    def write(values: Any, blobs: Blobs) -> list[Any]:
        return [form.write(value, blobs) for value in values]

    def read(values: Any, blobs: Blobs) -> tuple[Any, ...]:
        if type(values) is not list or len(values) > limit:
            raise WireError(f"no list of at most {limit}")
        return tuple([form.read(value, blobs) for value in values])

    return Form(write, read)


def mapping(form: Form, limit: int) -> Form:
    """Return the form of a dictionary of at most `limit` keys, keys and values of one form."""

    def read(values: Any, blobs: Blobs) -> dict[str, Any]:
        if type(values) is not dict or len(values) > limit:
            raise WireError(f"no dictionary of at most {limit}")
        return {form.read(key, blobs): form.read(value, blobs) for key, value in values.items()}

    return Form(_as_it_is, read)


def blob() -> Form:
    """Return the form of bytes, which the JSON only numbers."""

    def write(value: bytes, blobs: Blobs) -> int:
        blobs.append(value)
        return len(blobs) - 1

    def read(value: Any, blobs: Blobs) -> bytes:
        if type(value) is not int or not 0 <= value < len(blobs):
            raise WireError("no blob of this message")
        return blobs[value]

    return Form(write, read)


def either(first: Form, second: Form, is_first: type) -> Form:
    """Return the form of a value of one of two forms, told apart by the type of their JSON."""

    def write(value: Any, blobs: Blobs) -> Any:
        return (first if type(value) is is_first else second).write(value, blobs)

    def read(value: Any, blobs: Blobs) -> Any:
        return (first if type(value) is is_first else second).read(value, blobs)

    return Form(write, read)


_USUAL = {
    int: whole(0, 1 << 53),
    float: number(0, 1e9),
    str: text(4096),
    tuple[str, ...]: many(text(4096), 1024),
}
"""The forms of fields that are annotated with none."""


def record(kind: type) -> Form:
    """Return the form of a frozen dataclass whose fields are annotated with theirs.

    Its JSON is an object with exactly these fields.
    """
    hints = get_type_hints(kind, include_extras=True)
    forms: dict[str, Form] = {}
    for field in dataclasses.fields(kind):
        found = [item for item in get_args(hints[field.name])[1:] if isinstance(item, Form)]
        forms[field.name] = found[0] if found else _USUAL[hints[field.name]]
    names = forms.keys()
    reads = [(name, form.read) for name, form in forms.items()]
    # Most values are JSON already; this runs six times for each block.
    writes = [(n, None if form.write is _as_it_is else form.write) for n, form in forms.items()]

    def write(value: Any, blobs: Blobs) -> dict[str, Any]:
        return {
            name: getattr(value, name) if change is None else change(getattr(value, name), blobs)
            for name, change in writes
        }

    def read(values: Any, blobs: Blobs) -> Any:
        if type(values) is not dict or values.keys() != names:
            raise WireError(f"a {kind.__name__} has the fields {', '.join(names) or 'none'}")
        found = []
        for name, take in reads:
            try:
                found.append(take(values[name], blobs))
            except WireError as error:
                raise WireError(f"{kind.__name__}.{name}: {error}") from error
        try:
            return kind(*found)
        except SettingsError as error:
            raise WireError(f"unusable settings: {error}") from error

    return Form(write, read)


def clean_text(value: str, limit: int) -> str:
    """Return at most `limit` characters of a text, as the form `text` takes them.

    Halves of surrogate pairs, which stand for bytes of a path that are no UTF-8, become `?`.
    """
    return value[:limit].encode("utf-8", "replace").decode()
