"""What callers have of a sandbox, wherever its code runs: one interface for all backends."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeVar

from swift_thyme.core.execution import ExecutionResult, InputImage
from swift_thyme.sandbox.messages import MAX_IMAGES
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.self_check import (
    CHECK_LIMIT_S,
    CHECK_PROGRAM,
    check_picture,
    make_sure,
)
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS

__all__ = ["BackendSession", "SandboxBackend", "check_images", "check_timeout"]

_MOST_TIMEOUT_S = 3600
_Session = TypeVar("_Session", bound="BackendSession")
_Backend = TypeVar("_Backend", bound="SandboxBackend")


class BackendSession(ABC):
    """One trajectory's Python.

    Names, imports, functions and files of a block are there for the next one; a block that does
    not end with `ok` leaves everything as it was. Blocks run one after the other.
    """

    @abstractmethod
    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Run one block.

        Cancelling the caller does not stop the block; it ends at its limit.

        Args:
            code: The program, without tags or fences.
            timeout_s: Wall-clock limit in seconds; None takes the one of the settings.

        Raises:
            SandboxUnavailableError: The sandbox failed, not the code. The session is lost.
            ValueError: The limit cannot be used.
        """

    @abstractmethod
    def run_sync(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Do what `run` does, from code without an event loop."""

    @abstractmethod
    async def close(self) -> None:
        """End the session and remove its files; may be called twice."""

    @abstractmethod
    def close_sync(self) -> None:
        """Do what `close` does, from code without an event loop."""

    @abstractmethod
    def close_later(self) -> Future[None]:
        """Begin to do what `close` does, and do not wait; the future is done when it is."""

    async def __aenter__(self: _Session) -> _Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __enter__(self: _Session) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sync()


class SandboxBackend(ABC):
    """Hands out sandboxed sessions.

    Safe to use from any thread and any event loop, and in a process forked from the one that made
    it: there it begins anew, without the sessions of the other.
    """

    settings: SandboxSettings
    """Limits that the caller chose; a backend elsewhere has some of its own."""

    @abstractmethod
    def start(self) -> None:
        """Wait until sessions can be opened.

        Raises:
            SandboxUnavailableError: They cannot; the message says why.
        """

    async def check(self) -> None:
        """Run a program that opens and returns a picture, to know that programs run.

        Raises:
            SandboxUnavailableError: It does not run; the message says why.
        """
        async with await self.open([check_picture()]) as session:
            make_sure(await session.run(CHECK_PROGRAM, CHECK_LIMIT_S))

    @abstractmethod
    def close(self) -> None:
        """End all sessions; may be called twice."""

    @abstractmethod
    async def open(self, images: Sequence[InputImage] = ()) -> BackendSession:
        """Open a session: an own Python state and own files, for one trajectory.

        Args:
            images: What the code may read; the first one's path is the preset `image_path`.

        Raises:
            SandboxUnavailableError: No session can be opened, or an image cannot be read.
            ValueError: An image path is not absolute or lies where nothing can be placed, or there
                are too many images.
        """

    @abstractmethod
    def open_sync(self, images: Sequence[InputImage] = ()) -> BackendSession:
        """Do what `open` does, from code without an event loop."""

    async def __aenter__(self: _Backend) -> _Backend:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __enter__(self: _Backend) -> _Backend:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_images(images: Sequence[InputImage]) -> None:
    """Make sure that images can be given to a session.

    Raises:
        ValueError: They cannot.
    """
    if len(images) > MAX_IMAGES:
        raise ValueError(f"a session takes at most {MAX_IMAGES} images, not {len(images)}")
    for image in images:
        if not os.path.isabs(image.path) or os.path.normpath(image.path) != image.path:
            raise ValueError(f"not an absolute, normal path: {image.path!r}")
        if len(image.path) > MAX_PATH_CHARS:
            raise ValueError(f"a path of more than {MAX_PATH_CHARS} characters: {image.path!r}")


def check_timeout(timeout_s: float | None, settings: SandboxSettings) -> float:
    """Return the limit of a block, in seconds.

    Args:
        timeout_s: The limit that was asked for; None takes the one of the settings.
        settings: The pool's.

    Raises:
        ValueError: The limit cannot be used.
    """
    limit_s = settings.timeout_s if timeout_s is None else timeout_s
    if not 0 < limit_s <= _MOST_TIMEOUT_S:
        raise ValueError(f"timeout_s must lie between 0 and 3600 seconds, not {limit_s}")
    return limit_s
