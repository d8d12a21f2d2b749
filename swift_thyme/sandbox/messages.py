"""Every message between the processes of the sandbox.

Pool and worker, and worker and encoder, exchange frames (JSON and blobs); the worker, its template,
its keepers and its runners exchange datagrams. `message_codec` says how they become bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from swift_thyme.core.execution import ExecutionResult, ExecutionStatus, ReturnedImage
from swift_thyme.sandbox import wire
from swift_thyme.sandbox.mending import Mending
from swift_thyme.sandbox.message_codec import Message, register
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS, ImageInfo
from swift_thyme.sandbox.wire import WireError

MAX_IMAGES = 64
"""Input images of a session: their descriptors go with one message."""
MAX_CODE_CHARS = 256 * 1024
"""Characters of a program that are sent; far fewer are run."""
MAX_PROGRAM_CHARS = 96 * 1024
"""Characters of a repaired program that are told."""
MAX_REASON_CHARS = 8192
MAX_ERROR_CHARS = 4096
MAX_NOTE_CHARS = 500
"""Characters that say why an image is refused."""
MAX_NAME_CHARS = 255
MAX_SAVED = 200
"""Saved files, and renamed ones, that a report can name."""
MAX_CHANGED = 2048
MAX_REPAIRS = 100
_MAX_PARTS = 16384
_MAX_TEXT_CHARS = 16 << 20
_MAX_NUMBER = (1 << 53) - 1

_IDENTIFIER = wire.whole(0, _MAX_NUMBER)
_SIDE = wire.whole(0, 1 << 31)
_SHOWN_PATH = wire.text(MAX_PATH_CHARS)
_FILE_PATH = wire.any_text(MAX_PATH_CHARS)
_TEXT = wire.text(_MAX_TEXT_CHARS)
_REASON = wire.text(MAX_REASON_CHARS)
_NAME = wire.text(MAX_NAME_CHARS)
_REPAIRS = wire.many(wire.text(64), MAX_REPAIRS)

Identifier = Annotated[int, _IDENTIFIER]
Side = Annotated[int, _SIDE]
Reason = Annotated[str, _REASON]
Repairs = Annotated[tuple[str, ...], _REPAIRS]
Inputs = Annotated[tuple[ImageInfo, ...], wire.many(wire.record(ImageInfo), MAX_IMAGES)]
Seconds = Annotated[float, wire.number(0, 1e6)]
Bytes = Annotated[bytes, wire.blob()]
ProcessId = Annotated[int, wire.whole(1, 1 << 31)]


@dataclass(frozen=True, slots=True)
class Finished(Message):
    """What a keeper or an encoder was told to do is done."""


@dataclass(frozen=True, slots=True)
class Broken(Message):
    """A worker or a runner cannot start, or a keeper could not do what it was told."""

    reason: Reason
    for_want_of_room: Annotated[bool, wire.flag()] = False
    """Whether the host has no memory, disk or descriptor left, which is no fault of the request."""


# -- pool to worker --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup(Message):
    """The first message: what kind of worker to be."""

    settings: Annotated[SandboxSettings, wire.record(SandboxSettings)]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An input image and where to read it."""

    path: Annotated[str, _FILE_PATH]
    """Path at which the code finds it."""
    file: Annotated[str | None, wire.maybe(wire.any_text(1 << 16))]
    """The file to copy it from, or None."""
    data: Annotated[bytes | None, wire.maybe(wire.blob())]
    """Its content where there is no file."""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.data is None):
            raise WireError("an image comes from a file or as bytes")


@dataclass(frozen=True, slots=True)
class OpenSession(Message):
    """Open a session."""

    id: Identifier
    session: Identifier
    images: Annotated[tuple[SourceImage, ...], wire.many(wire.record(SourceImage), MAX_IMAGES)]


@dataclass(frozen=True, slots=True)
class RunBlock(Message):
    """Run a block of a session."""

    id: Identifier
    session: Identifier
    code: Annotated[str, wire.any_text(MAX_CODE_CHARS)]
    timeout_s: Annotated[float, wire.number(0, 3600)]
    held: Annotated[bool, wire.flag()] = False
    """Whether it waits, where the worker runs one, until that is over or `BeginBlock` comes."""


@dataclass(frozen=True, slots=True)
class BeginBlock(Message):
    """Let a block begin that is held; there is no answer of its own."""

    id: Identifier


@dataclass(frozen=True, slots=True)
class CloseSession(Message):
    """End a session."""

    id: Identifier
    session: Identifier


# -- worker to pool --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerReady(Message):
    """The worker can open sessions."""

    missing_layers: Annotated[tuple[str, ...], wire.many(_REASON, 64)]
    """Isolation layers that are off, each with the reason."""


@dataclass(frozen=True, slots=True)
class Done(Message):
    """A session was opened or closed."""

    id: Identifier


class FailureKind(str, Enum):
    """Whose fault it is that something was not done."""

    CALLER = "caller"
    """What was asked for cannot be had."""
    SANDBOX = "sandbox"
    """The session is lost."""


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """What was asked for was not done."""

    id: Identifier
    kind: Annotated[FailureKind, wire.choice(FailureKind)]
    reason: Reason


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image that a block returned."""

    data: Bytes
    width: Side
    height: Side
    name: Annotated[str, _NAME]
    printed: Annotated[bool, wire.flag()] = True


@dataclass(frozen=True, slots=True)
class BlockDone(Message):
    """What a block did."""

    id: Identifier
    status: Annotated[ExecutionStatus, wire.choice(ExecutionStatus)]
    stdout: Annotated[str, _TEXT]
    error: Annotated[str | None, wire.maybe(_REASON)]
    images: Annotated[tuple[SentImage, ...], wire.many(wire.record(SentImage), 256)]
    repairs: Repairs
    duration_s: Seconds
    parts: Annotated[tuple[str | int, ...], wire.many(wire.either(_TEXT, _SIDE, str), _MAX_PARTS)]
    """Text, and numbers of images, in the order produced."""
    program: Annotated[str | None, wire.maybe(wire.text(MAX_PROGRAM_CHARS))] = None
    """The program as it was run, where that is not as it was written."""

    def __post_init__(self) -> None:
        if not all(type(part) is str or part < len(self.images) for part in self.parts):  # type: ignore[operator]
            raise WireError("a part is an image that there is not")

    @classmethod
    def of(cls, identifier: int, result: ExecutionResult) -> BlockDone:
        """Return the message that carries a result."""
        numbers = {id(image): number for number, image in enumerate(result.images)}
        return cls(
            identifier,
            result.status,
            result.stdout,
            result.error,
            tuple(SentImage(i.data, i.width, i.height, i.name, i.printed) for i in result.images),
            result.repairs,
            result.duration_s,
            tuple(part if isinstance(part, str) else numbers[id(part)] for part in result.parts),
            result.program,
        )

    def result(self) -> ExecutionResult:
        """Return the result that this message carries."""
        images = tuple(
            ReturnedImage(i.data, i.width, i.height, i.name, i.printed) for i in self.images
        )
        parts = tuple(part if isinstance(part, str) else images[part] for part in self.parts)
        return ExecutionResult(
            *(self.status, self.stdout, self.error, images, self.repairs, self.duration_s, parts),
            self.program,
        )


# -- worker to template, with answers --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeSession(Message):
    """Fork the keeper of a session, whose end of the connection comes along."""

    base: Annotated[str | None, wire.maybe(_FILE_PATH)]
    """Host folder of its private folders, or None where they live in its mount namespace."""
    user_id: Annotated[int | None, wire.maybe(wire.whole(0, 1 << 32))]
    """User id that it takes on, None for the worker's."""
    disk_bytes: Annotated[int, wire.whole(0, _MAX_NUMBER)]
    """Bytes that its private folders can hold together."""


@dataclass(frozen=True, slots=True)
class MakeTemplate(Message):
    """Fork another template, whose end of the connection comes along."""


@dataclass(frozen=True, slots=True)
class Made(Message):
    """A process was made."""

    pid: ProcessId


# -- worker to keeper, with answers ----------------------------------------------------------------


class KeeperAction(str, Enum):
    """What a keeper can be told to do."""

    START = "start"
    """Build the session's surroundings and its processes. The runner's connection, the pipe that
    runners print to and the encoder's connection come along."""
    START_RUNNER = "start runner"
    """Make a runner with the state from before the first block; its connection comes along."""
    START_ENCODER = "start encoder"
    """Make an encoder; its connection comes along."""
    FREEZE = "freeze"
    """Stop every process of the session."""
    COMMIT_FILES = "commit files"
    RESTORE_FILES = "restore files"


@dataclass(frozen=True, slots=True)
class KeeperOrder(Message):
    """Do something."""

    action: Annotated[KeeperAction, wire.choice(KeeperAction)]
    mapped: Annotated[bool, wire.flag()] = False
    """Whether files may have been changed through memory (only for those about files)."""


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """Place the input images whose descriptors come along."""

    paths: Annotated[tuple[str, ...], wire.many(_FILE_PATH, MAX_IMAGES)]


@dataclass(frozen=True, slots=True)
class ListChanged(Message):
    """Say which files the last block made or changed."""

    limit: Annotated[int, wire.whole(0, MAX_CHANGED)]


@dataclass(frozen=True, slots=True)
class ChangedFiles(Message):
    """The files that the last block made or changed, oldest first."""

    paths: Annotated[tuple[str, ...], wire.many(_SHOWN_PATH, MAX_CHANGED)]


# -- worker to runner, with answers ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunProgram(Message):
    """Run a program as the next block."""

    code: Bytes
    """Its text in UTF-8, halves of surrogate pairs and all. In JSON it could be six times as
    long."""
    images: Inputs
    timeout_s: Annotated[float, wire.number(0, 3600)]
    mending: Annotated[Mending | None, wire.maybe(wire.record(Mending))] = None
    """What is repaired in this run; None in the first one, which runs the program as it is."""


@dataclass(frozen=True, slots=True)
class HandOver(Message):
    """Let a copy go on, with the connection that comes along, and be the state to go back to."""

    hurry: Annotated[bool, wire.flag()]
    """Whether the next block waits already."""


@dataclass(frozen=True, slots=True)
class RunnerReady(Message):
    """A new runner waits for work."""


class ErrorKind(str, Enum):
    """How a program failed."""

    ERROR = "error"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class ReportedError:
    """The exception that ended a program."""

    kind: Annotated[ErrorKind, wire.choice(ErrorKind)]
    text: Annotated[str, wire.text(MAX_ERROR_CHARS)]


@dataclass(frozen=True, slots=True)
class SavedFile:
    """An image file that a program saved, or showed."""

    place: Identifier
    """How much was printed before: bytes in a report, characters for the encoder."""
    path: Annotated[str, _SHOWN_PATH]
    shown: Annotated[bool, wire.flag()] = False


Saved = Annotated[tuple[SavedFile, ...], wire.many(wire.record(SavedFile), MAX_SAVED)]
Aliases = Annotated[dict[str, str], wire.mapping(_SHOWN_PATH, MAX_SAVED)]


@dataclass(frozen=True, slots=True)
class BlockReport(Message):
    """What a runner says that its program did; it may be forged."""

    error: Annotated[ReportedError | None, wire.maybe(wire.record(ReportedError))]
    repairs: Repairs
    saved: Saved
    aliases: Aliases
    """Path that the program names -> path at which the file was saved."""
    maps: Annotated[bool, wire.flag()]
    """Whether the program has files mapped into its memory."""
    mending: Annotated[Mending | None, wire.maybe(wire.record(Mending))] = None
    """What another run could repair besides, with what this one did; None where nothing."""
    program: Annotated[str | None, wire.maybe(wire.text(MAX_PROGRAM_CHARS))] = None
    """The program as it was run, where that is not as it was written."""


# -- worker to encoder, with answers ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FindImages(Message):
    """Find the images of a block and encode them."""

    text: Annotated[str, _TEXT]
    saved: Saved
    aliases: Aliases
    inputs: Inputs
    budget_s: Annotated[float, wire.number(0, 3600)]
    """Seconds for all of them together; those that are not begun by then are refused."""
    changed: Annotated[tuple[str, ...] | None, wire.maybe(wire.many(_SHOWN_PATH, MAX_CHANGED))] = (
        None
    )
    """Files that the block made or changed; None where the encoder has to look for itself."""


@dataclass(frozen=True, slots=True)
class KeepFiles(Message):
    """The files that were looked at last are no news any more; there is no answer."""


@dataclass(frozen=True, slots=True)
class RebaseFiles(Message):
    """The files that are there now are no news any more."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """A file of a block that may be an image: its place in the text, and what became of it."""

    start: Identifier
    end: Identifier
    """The text between start and end, in characters, gives way to the image."""
    name: Annotated[str, _NAME]
    refused: Annotated[str | None, wire.maybe(wire.text(MAX_NOTE_CHARS))] = None
    """Why it is not returned."""
    data: Annotated[bytes | None, wire.maybe(wire.blob())] = None
    """It, encoded again; None where it is refused or no image."""
    width: Side = 0
    height: Side = 0
    repairs: Repairs = ()
    printed: Annotated[bool, wire.flag()] = True
    """Whether the program printed its path, or showed it."""

    def __post_init__(self) -> None:
        if self.start > self.end or (self.data is not None and self.refused is not None):
            raise WireError("an image that ends before it starts, or is refused and returned")


@dataclass(frozen=True, slots=True)
class ImagesFound(Message):
    """The images of a block, in the order of their places."""

    images: Annotated[tuple[FoundImage, ...], wire.many(wire.record(FoundImage), MAX_CHANGED)]
    repairs: Repairs
    left_out: Annotated[int, wire.whole(0, _MAX_NUMBER)] = 0
    """Files that the program saved and did not print, and that were not looked at."""


register(list(globals().values()))
