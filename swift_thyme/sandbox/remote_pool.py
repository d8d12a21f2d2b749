"""The pool whose sessions are at servers elsewhere; the same interface as the pool of this host.

A thread with an event loop of its own does everything that touches the network. What fails there
is our failure (`SandboxUnavailableError`), never text of the model. A block is sent once: where no
result comes back, nobody knows whether it ran, so its session is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from swift_thyme.core.errors import SandboxUnavailableError
from swift_thyme.core.execution import ExecutionResult, InputImage
from swift_thyme.sandbox.interface import (
    BackendSession,
    SandboxBackend,
    check_images,
    check_timeout,
)
from swift_thyme.sandbox.loop_thread import CLOSED, LoopThread, arrival
from swift_thyme.sandbox.messages import MAX_CODE_CHARS, SourceImage
from swift_thyme.sandbox.remote_server import CodeServer, Fault, HttpServer, ServerFault
from swift_thyme.sandbox.remote_settings import RemoteSettings
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.server_choice import Place, ServerChoice

__all__ = ["RemoteSandboxPool", "RemoteSession"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Connect = Callable[[str, RemoteSettings], CodeServer]

_TRIAL_LIMIT_S = 10.0
"""Longest opening at a server that failed the last time."""
_HEALTH_LIMIT_S = 5.0
_START_PAUSE_S = 0.5
_CLOSE_LIMIT_S = 10.0
_LEAVE_LIMIT_S = 5.0
"""Longest wait for all sessions to end when the pool is closed."""


class RemoteSandboxPool(SandboxBackend):
    """Hands out sessions of other machines.

    Cheap to make: nothing is asked before the first session, `start`, or entering it as a
    (synchronous or asynchronous) context manager. Safe to use from any thread and any event loop.
    In a process forked from the one that made it, it begins anew.

    Args:
        settings: Of these, the time limit of a block counts; None reads them from the environment.
        remote: The servers, at least one; None reads them from the environment.
        connect: Makes the client of a server from its base URL.

    Raises:
        SettingsError: The environment holds a value that cannot be used.
        ValueError: There is no server.
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        remote: RemoteSettings | None = None,
        connect: Connect = HttpServer,
    ) -> None:
        self.settings = SandboxSettings.from_env() if settings is None else settings
        self._remote = RemoteSettings.from_env() if remote is None else remote
        if not self._remote.urls:
            raise ValueError("a remote pool needs the URL of a server")
        self._connect = connect
        self._link: _Link | None = None
        self._inherited: list[_Link] = []
        self._lock = threading.Lock()
        self._closed = False

    def _running(self) -> _Link:
        with self._lock:
            if self._closed:
                raise SandboxUnavailableError(CLOSED)
            if self._link is not None and self._link.thread.owner != os.getpid():
                # A fork inherits the record but not the thread behind it. Its sockets are those of
                # the other process, so nothing of it may be closed here.
                self._inherited.append(self._link)
                self._link = None
            if self._link is None:
                self._link = _Link(self._remote, self._connect)
            return self._link

    def start(self) -> None:
        """Wait until a server answers.

        Raises:
            SandboxUnavailableError: None does; the message says why.
        """
        link = self._running()
        link.thread.submit(link.start()).result()

    def close(self) -> None:
        """End all sessions; may be called twice."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is not None and link.thread.owner == os.getpid():
            link.thread.close()

    async def open(self, images: Sequence[InputImage] = ()) -> RemoteSession:
        """Open a session at the server that has the fewest of ours.

        A caller that is cancelled meanwhile leaves no session behind.

        Args:
            images: What the code may read; the first one's path is the preset `image_path`.

        Raises:
            SandboxUnavailableError: No server opens one, or an image cannot be read.
            ValueError: An image path is not absolute or lies where nothing can be placed, or there
                are too many images.
        """
        opening = self._begin(images)
        try:
            return await arrival(opening)
        except (asyncio.CancelledError, GeneratorExit):
            opening.add_done_callback(_close_orphan)
            raise

    def open_sync(self, images: Sequence[InputImage] = ()) -> RemoteSession:
        """Do what `open` does, from code without an event loop."""
        return self._begin(images).result()

    def _begin(self, images: Sequence[InputImage]) -> Future[RemoteSession]:
        check_images(images)
        link = self._running()
        return link.thread.submit(self._open(link, list(images)))

    async def _open(self, link: _Link, images: list[InputImage]) -> RemoteSession:
        sources = await asyncio.to_thread(_read, images) if images else ()
        place, name = await link.open(sources)
        session = RemoteSession(link, place, name, self.settings)
        link.sessions.add(session)
        return session


class RemoteSession(BackendSession):
    """One trajectory's Python at a server; made by `RemoteSandboxPool.open`.

    Names, imports, functions and files of a block are there for the next one; a block that does
    not end with `ok` leaves everything as it was. Blocks run one after the other.
    """

    def __init__(self, link: _Link, place: Place, name: str, settings: SandboxSettings) -> None:
        self._link = link
        self._place = place
        self._name = name
        self._settings = settings
        self._turn = asyncio.Lock()
        self._lost = ""
        """How the session was lost, in words."""
        self._closing: Future[None] | None = None
        self._closing_lock = threading.Lock()

    async def run(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Run one block.

        Cancelling the caller does not stop the block; it ends at its limit.

        Args:
            code: The program, without tags or fences.
            timeout_s: Wall-clock limit in seconds; None takes the one of the settings.

        Raises:
            SandboxUnavailableError: The sandbox or the network failed, not the code. The session
                is lost.
            ValueError: The limit cannot be used.
        """
        return await arrival(self._begin(code, timeout_s))

    def run_sync(self, code: str, timeout_s: float | None = None) -> ExecutionResult:
        """Do what `run` does, from code without an event loop."""
        return self._begin(code, timeout_s).result()

    async def close(self) -> None:
        """End the session and remove its files; may be called twice."""
        await arrival(self.close_later())

    def close_sync(self) -> None:
        """Do what `close` does, from code without an event loop."""
        self.close_later().result()

    def close_later(self) -> Future[None]:
        """Begin to do what `close` does, and do not wait; the future is done when it is."""
        with self._closing_lock:
            if self._closing is None:
                try:
                    self._closing = self._link.thread.submit(self.end())
                except SandboxUnavailableError:
                    # The pool was closed, and its sessions with it.
                    self._closing = Future()
                    self._closing.set_result(None)
        return self._closing

    def _begin(self, code: str, timeout_s: float | None) -> Future[ExecutionResult]:
        limit_s = check_timeout(timeout_s, self._settings)
        if self._closing is not None:
            raise SandboxUnavailableError("the session is closed")
        # Of a program that is too long, as much is sent as shows that it is.
        return self._link.thread.submit(self._run(code[:MAX_CODE_CHARS], limit_s))

    # -- in the thread -------------------------------------------------------------------------

    async def _run(self, code: str, timeout_s: float) -> ExecutionResult:
        async with self._turn:
            if self._closing is not None:
                raise SandboxUnavailableError("the session is closed")
            if self._lost:
                raise SandboxUnavailableError(f"the session was lost: {self._lost}")
            asked_at = time.monotonic()
            work = self._place.server.run(self._name, code, timeout_s)
            try:
                result = await _within(timeout_s + self._link.remote.grace_s, self._place, work)
            except ServerFault as fault:
                self._lose(fault, asked_at)
                raise
            self._place.succeeded()
            return result

    def _lose(self, fault: ServerFault, asked_at: float) -> None:
        if fault.fault is Fault.DOWN:
            self._place.failed(fault, asked_at)
        if not self._lost:
            self._lost = str(fault)
            self._place.sessions -= 1
            # Nobody waits for it: the server may be gone, and drops the session by itself later.
            self._link.thread.begin(self.end_at_server())

    async def end(self) -> None:
        """End the session at its server, which may be gone."""
        if self._lost:
            return
        self._lost = "it was closed"
        try:
            # The end of the pool ends what is left here, and nobody needs to hear of that.
            with contextlib.suppress(asyncio.CancelledError):
                await self.end_at_server()
        finally:
            self._place.sessions -= 1

    async def end_at_server(self) -> None:
        """End the session at its server, whatever was begun before."""
        try:
            await _within(_CLOSE_LIMIT_S, self._place, self._place.server.close(self._name))
        except (ServerFault, ValueError) as error:
            logger.info("a session was not closed, its server will do that: %s", error)
        self._link.sessions.discard(self)


class _Link:
    """The thread of a pool and everything it owns.

    Args:
        remote: The servers.
        connect: Makes the client of one.
    """

    def __init__(self, remote: RemoteSettings, connect: Connect) -> None:
        self.remote = remote
        self.sessions: set[RemoteSession] = set()
        """Sessions that may be open at a server."""
        self._choice = ServerChoice([Place(url, connect(url, remote)) for url in remote.urls])
        self.thread = LoopThread(self._leave)

    async def start(self) -> None:
        """Wait until a server answers."""
        end = time.monotonic() + self.remote.open_s
        while True:
            limit_s = min(_HEALTH_LIMIT_S, max(0.0, end - time.monotonic()))
            asking = [self._ask_health(place, limit_s) for place in self._choice.places]
            asked = await asyncio.gather(*asking)
            faults = [fault for fault in asked if fault is not None]
            if len(faults) < len(asked):
                return
            late = end - time.monotonic() <= _START_PAUSE_S
            if late or all(fault.fault is Fault.REFUSED for fault in faults):
                raise SandboxUnavailableError("; ".join(map(str, faults)))
            await asyncio.sleep(_START_PAUSE_S)

    async def _ask_health(self, place: Place, limit_s: float) -> ServerFault | None:
        asked_at = time.monotonic()
        try:
            await _within(limit_s, place, place.server.health())
        except ServerFault as fault:
            place.failed(fault, asked_at)
            return fault
        place.succeeded()
        return None

    async def open(self, images: tuple[SourceImage, ...]) -> tuple[Place, str]:
        """Open a session somewhere; return where, and its name there."""
        end = time.monotonic() + self.remote.open_s
        refused: dict[Place, ServerFault] = {}
        early: set[Place] = set()
        while len(refused) < len(self._choice.places):
            left_s = end - time.monotonic()
            place, wait_s = self._choice.choose(refused)
            if left_s <= 0:
                words = f"no sandbox session within {self.remote.open_s:g} s: {place.last_error}"
                raise SandboxUnavailableError(words)
            # A server that would be left alone until it is too late is tried all the same, once.
            if wait_s > 0 and (wait_s < left_s or place in early):
                await asyncio.sleep(min(wait_s, left_s))
                continue
            if wait_s > 0:
                early.add(place)
            # A server that is silent must leave time for another one.
            limit_s = left_s if len(self._choice.places) - len(refused) == 1 else left_s / 2
            asked_at = time.monotonic()
            try:
                return place, await self._open_at(place, images, limit_s)
            except ServerFault as fault:
                if fault.fault in (Fault.REFUSED, Fault.LOST):
                    refused[place] = fault
                place.failed(fault, asked_at)
        raise SandboxUnavailableError("; ".join(map(str, refused.values())))

    async def _open_at(self, place: Place, images: tuple[SourceImage, ...], limit_s: float) -> str:
        trial = place.failures > 0
        if trial:
            place.on_trial = True
            limit_s = min(limit_s, _TRIAL_LIMIT_S)
        place.sessions += 1
        try:
            name = await _within(limit_s, place, place.server.open(images))
        except BaseException:
            place.sessions -= 1
            raise
        finally:
            if trial:
                place.on_trial = False
        place.succeeded()
        return name

    async def _leave(self) -> None:
        """End the sessions and the connections."""
        with contextlib.suppress(asyncio.TimeoutError):
            ends = [session.end_at_server() for session in self.sessions]
            await asyncio.wait_for(asyncio.gather(*ends), _LEAVE_LIMIT_S)
        for place in self._choice.places:
            await place.server.leave()


async def _within(limit_s: float, place: Place, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work.

    Raises:
        ServerFault: It failed, or took longer than `limit_s` seconds.
    """
    try:
        return await asyncio.wait_for(work, limit_s)
    except asyncio.TimeoutError as error:
        words = f"the sandbox server {place.url} gives no answer within {limit_s:.3g} s"
        raise ServerFault(words, Fault.DOWN) from error


def _read(images: list[InputImage]) -> tuple[SourceImage, ...]:
    """Return the images as bytes: a path of this host says nothing elsewhere."""
    sources = []
    for image in images:
        data = image.source
        if not isinstance(data, bytes):
            try:
                data = Path(data).read_bytes()
            except OSError as error:
                raise SandboxUnavailableError(f"an image cannot be read: {error}") from error
        sources.append(SourceImage(image.path, None, data))
    return tuple(sources)


def _close_orphan(opening: Future[RemoteSession]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close_later()
