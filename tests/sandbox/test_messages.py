"""Every message: there and back, and what a hostile process could send in its place."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.sandbox import messages as m
from swift_thyme.sandbox.frames import Frame, FrameReader
from swift_thyme.sandbox.mending import CropPlace, Mending
from swift_thyme.sandbox.message_codec import (
    Message,
    decode_datagram,
    decode_frame,
    encode_datagram,
    encode_frame,
)
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import ImageInfo
from swift_thyme.sandbox.wire import WireError, clean_text, read_json

INPUT = ImageInfo("/data/a.jpg", "/data/a.jpg", 200, 100)
SAVED = (m.SavedFile(3, "/tmp/a.png"),)
FOUND = m.FoundImage(0, 4, "a.png", None, b"png", 30, 40, ("flatten_alpha",))
REFUSED = m.FoundImage(4, 4, "b.png", "it cannot be decoded")
MENDING = Mending(("plt",), ("/a.png",), True, False, (CropPlace(1, 2, 3, 4),))

EXAMPLES: list[Message] = [
    m.Setup(SandboxSettings(workers=3, disable=("uid",), memory_mb=100)),
    m.OpenSession(
        1, 2, (m.SourceImage("/a", "/b", None), m.SourceImage("/c\udcff", None, b"\0x"))
    ),
    m.RunBlock(1, 2, "print('\u00e9\ud800')", 3.5),
    m.RunBlock(1, 2, "", 1.0, held=True),
    m.BeginBlock(1),
    m.CloseSession(1, 2),
    m.WorkerReady(("landlock (not built in)",)),
    m.Broken("no memory"),
    m.Done(7),
    m.Failed(7, m.FailureKind.CALLER, "no such path"),
    m.BlockDone(
        *(7, ExecutionStatus.OK, "a\n", None),
        *((m.SentImage(b"x", 3, 4, "n"),), ("dedent",), 0.5, ("a", 0), "x = 1"),
    ),
    m.MakeSession("/tmp/\udcff/1", 70000, 1 << 28),
    m.MakeSession(None, None, 1 << 28),
    m.MakeTemplate(),
    m.Made(4711),
    m.KeeperOrder(m.KeeperAction.FREEZE),
    m.KeeperOrder(m.KeeperAction.RESTORE_FILES, mapped=True),
    m.Attach(("/a", "/b\udcff")),
    m.ListChanged(128),
    m.Finished(),
    m.ChangedFiles(("/tmp/a",)),
    m.RunProgram("x = '\ud800'".encode("utf-8", "surrogatepass"), (INPUT,), 2.0),
    m.RunProgram(b"x", (INPUT,), 2.0, MENDING),
    m.HandOver(True),
    m.RunnerReady(),
    m.BlockReport(
        *(m.ReportedError(m.ErrorKind.MEMORY, "MemoryError"), ("dedent",), SAVED),
        *({"a": "/tmp/a"}, True, MENDING, "x = 1"),
    ),
    m.FindImages("a.png\n", SAVED, {"a": "/tmp/a"}, (INPUT,), 2.5),
    m.KeepFiles(),
    m.RebaseFiles(),
    m.ImagesFound((FOUND, REFUSED), ("printed_base_name",)),
]  # fmt: skip

SURROGATES_ALLOWED = {
    ("RunBlock", "code"),
    ("MakeSession", "base"),
    ("Attach", "paths"),
    ("OpenSession", "images"),
    ("RunProgram", "images"),
    ("FindImages", "inputs"),
}
"""Fields that say so: a program that is no Unicode is the model's fault, a path can be bytes."""

DEEP = json.loads("[" * 500 + "]" * 500)
NEVER = [
    {"x": 1},
    DEEP,
    1 << 80,
    -1,
    float("nan"),
    float("inf"),
    -0.5,
    "y" * (17 << 20),
    [[]],
    [None] * 20000,
    b"",
]
"""Values that no field takes. Bytes stand for JSON that is none."""
SOMETIMES = [None, True, 0, 1, "", "x", [], {}, 1.5, "\ud800", ["\ud800"], {"\ud800": ""}]


def frame_of(message: Message) -> Frame:
    (frame,) = FrameReader().feed(encode_frame(message))
    return frame


def named(message: Message) -> str:
    return type(message).__name__


def test_there_is_an_example_of_each_message() -> None:
    kinds = {
        kind
        for kind in vars(m).values()
        if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
    }
    assert kinds == {type(message) for message in EXAMPLES}


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_a_message_comes_out_of_a_frame_as_it_went_in(message: Message) -> None:
    assert decode_frame(frame_of(message), type(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_a_message_comes_out_of_a_datagram_as_it_went_in(message: Message) -> None:
    assert decode_datagram(encode_datagram(message), type(message)) == message


def test_a_result_comes_out_as_it_went_in() -> None:
    images = tuple(ReturnedImage(bytes([n]) * 9, 30 + n, 40, f"{n}.png") for n in range(3))
    parts = ("a", images[1], "b", images[0], images[2])
    result = ExecutionResult(
        *(ExecutionStatus.OK, "ab", None, images, ("dedent",), 1.25, parts, "x = 1")
    )
    message = decode_frame(frame_of(m.BlockDone.of(1, result)), m.BlockDone)
    assert message.result() == result


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_another_kind_is_refused(message: Message) -> None:
    others = [type(other) for other in EXAMPLES if type(other) is not type(message)]
    with pytest.raises(WireError):
        decode_frame(frame_of(message), *others)
    with pytest.raises(WireError):
        decode_frame(frame_of(message))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value inside a value."""
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(header: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(header)
    target: Any = copied
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return copied


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_a_field_too_few_or_too_many_is_refused(message: Message) -> None:
    frame = frame_of(message)
    variants = [{**frame.header, "more": 1}, {"kind": named(message)}, {"fields": {}}, {}]
    variants += [{**frame.header, "fields": v} for v in (None, [], 1, "x", [frame.header])]
    for path in [("fields",), *places(frame.header["fields"], ("fields",))]:
        target = frame.header
        for key in path:
            target = target[key]
        if isinstance(target, dict) and path[-1] not in ("aliases",):
            variants.append(changed(frame.header, path, {**target, "more": None}))
            for key in target:
                variants.append(
                    changed(frame.header, path, {k: v for k, v in target.items() if k != key})
                )
    for header in variants:
        with pytest.raises(WireError):
            decode_frame(Frame(header, frame.blobs), type(message))


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_a_hostile_value_in_any_field_gives_the_one_error_or_a_proper_message(
    message: Message,
) -> None:
    frame = frame_of(message)
    for path in places(frame.header["fields"], ("fields",)):
        for value in (*NEVER, *SOMETIMES):
            header = changed(frame.header, path, value)
            try:
                found = decode_frame(Frame(header, frame.blobs), type(message))
            except WireError:
                continue
            assert not any(value is never for never in NEVER), (path, str(value)[:40])
            allowed = (named(message), path[1]) in SURROGATES_ALLOWED
            assert allowed or "\\ud800" not in json.dumps(value), path
            # What was taken can be sent on and is taken again.
            assert decode_frame(frame_of(found), type(message)) == found


@pytest.mark.parametrize("message", EXAMPLES, ids=named)
def test_blobs_that_are_not_there_are_refused(message: Message) -> None:
    frame = frame_of(message)
    if frame.blobs:
        with pytest.raises(WireError):
            decode_frame(Frame(frame.header, []), type(message))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{",
        b"\xff\xfe{}",
        b'{"kind": "RunnerReady", "fields": {}} x',
        b'{"kind": "RunnerReady", "fields": {"x": NaN}}',
        b'{"kind": "RunnerReady", "fields": NaN}',
        b'{"kind": ["RunnerReady"], "fields": {}}',
        b'{"kind": "Message", "fields": {}}',
        b'{"kind": "RunnerReady"}',
        b'{"kind": "RunnerReady", "fields": ' + b"[" * 100_000,
        b'{"kind": "RunnerReady", "fields": ' + b"9" * 100_000 + b"}",
        '{"kind": "RunnerReady", "fields": {"\u00e9": 1}}'.encode("latin-1"),
    ],
)
def test_a_datagram_that_is_no_message_gives_the_one_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_datagram(data, m.RunnerReady, m.BlockReport, m.Broken)


def test_numbers_are_finite_whatever_their_spelling() -> None:
    for number in ("1e999", "-1e999", "Infinity", "NaN", '"1"', "true"):
        fields = f'{{"code": "", "images": [], "timeout_s": {number}}}'
        data = f'{{"kind": "RunProgram", "fields": {fields}}}'
        with pytest.raises(WireError):
            decode_datagram(data.encode(), m.RunProgram)


def test_half_a_surrogate_pair_is_read_as_json_and_refused_as_text() -> None:
    assert read_json(b'{"a": "\\ud800"}') == {"a": "\ud800"}
    report = m.BlockReport(m.ReportedError(m.ErrorKind.ERROR, "\ud800"), (), (), {}, False)
    with pytest.raises(WireError):
        decode_datagram(encode_datagram(report), m.BlockReport)


def test_cleaned_text_is_what_a_message_takes() -> None:
    assert clean_text("a\ud800\u00e9b", 3) == "a?\u00e9"


def test_an_image_is_refused_or_returned_and_never_both() -> None:
    with pytest.raises(WireError):
        m.FoundImage(0, 0, "a", "no", b"yes")
    with pytest.raises(WireError):
        m.SourceImage("/a", "/a", b"")
