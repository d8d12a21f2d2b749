"""The worker process: loads the libraries once and supervises sessions.

Started by `python -m swift_thyme.sandbox.worker`, never forked from the trainer, so it has
neither CUDA nor threads nor secrets. It takes messages over one inherited socket, supervises its
sessions and ends, with all of them, when that socket closes or its parent dies. It runs no code
of a model and decodes no image that one wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.sandbox import layers, linux, mapped_files
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.frames import FrameReader, Inbox
from swift_thyme.sandbox.keeper_client import SessionLost
from swift_thyme.sandbox.memory_group import MemoryGroups, find_place
from swift_thyme.sandbox.memory_image import freeze_memory
from swift_thyme.sandbox.message_codec import Message, decode_frame, encode_frame
from swift_thyme.sandbox.messages import (
    MAX_REASON_CHARS,
    BeginBlock,
    BlockDone,
    Broken,
    CloseSession,
    Done,
    Failed,
    FailureKind,
    OpenSession,
    RunBlock,
    Setup,
    WorkerReady,
)
from swift_thyme.sandbox.preload import preload
from swift_thyme.sandbox.process_environment import hide_package_folder
from swift_thyme.sandbox.processes import kill_tree
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session import Session
from swift_thyme.sandbox.session_factory import SessionFactory
from swift_thyme.sandbox.tool_loading import check_places, load_tools
from swift_thyme.sandbox.wire import WireError, clean_text

__all__ = ["main"]

_SETTLE_DELAY_S = 0.002
_LARGE_WAIT_S = 0.2
_SETTLE_ALONE_S = 0.1
"""Seconds that a session's last block may be settled in while the blocks of others wait."""
_FREE_SETTLING_S = 0.5
"""Seconds of it that do not count as time of the next block."""
_LARGE_BYTES = 16 << 20
"""Memory of a block from which on it is settled before the next block of any session."""


def main() -> None:
    """Run a worker on the socket whose descriptor is given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--descriptor", type=int, required=True)
    arguments = parser.parse_args()
    connection = socket.socket(fileno=arguments.descriptor)
    parent = os.getppid()
    if linux.SUPPORTED:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return  # it died before the line above
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a session takes four descriptors
    settings = _receive_settings(connection)
    hide_package_folder()
    try:
        found = layers.probe_here(settings)
        reason = layers.refusal(settings.mode, found)
        if reason is not None:
            raise RuntimeError(reason)
        confinement = layers.confinement_from(found)
        check_places(settings.tools, confinement)
        preload(settings)
        load_tools(settings.tools)
        by_name = {layer.name: layer.on for layer in found}
        place = find_place() if by_name["memory group"] else None
        groups = MemoryGroups(place, settings)
        factory = SessionFactory(settings, confinement, groups)
        if settings.uses(Acceleration.MEMORY_IMAGE):
            freeze_memory()
        if settings.uses(Acceleration.REHEARSAL):
            factory.rehearse()
        mapped_files.install()
        factory.start()
    except (RuntimeError, OSError, ImportError, SettingsError) as error:
        connection.sendall(encode_frame(Broken(_text(error))))
        return
    off = [f"{layer.name} ({layer.reason})" for layer in found if not layer.on]
    ready = WorkerReady(tuple(clean_text(text, MAX_REASON_CHARS) for text in off))
    connection.sendall(encode_frame(ready))
    try:
        asyncio.run(_Worker(connection, settings, factory).serve())
    finally:
        kill_tree(os.getpid())
        factory.tidy()


def _receive_settings(connection: socket.socket) -> SandboxSettings:
    reader = FrameReader()
    while True:
        data = connection.recv(1 << 16)
        if not data:
            sys.exit(0)
        for frame in reader.feed(data):
            return decode_frame(frame, Setup).settings


class _Worker:
    def __init__(
        self, connection: socket.socket, settings: SandboxSettings, factory: SessionFactory
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._factory = factory
        self._sessions: dict[int, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outgoing = asyncio.Lock()
        self._inbox = Inbox(1 << 18)
        self._large: dict[int, Session] = {}
        self._running = 0
        self._held: dict[int, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._settling = asyncio.Lock()
        self._commits_late = settings.uses(Acceleration.LATE_COMMIT)
        self._settles_large = settings.uses(Acceleration.LARGE_FIRST)

    # -- life ----------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Do what the pool asks for, until it is gone."""
        loop = asyncio.get_running_loop()
        self._connection.setblocking(False)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal's, meant for others
        reader = FrameReader()
        loop.add_reader(self._connection.fileno(), lambda: self._read(reader, stop))
        self._factory.fill_spares()
        await stop.wait()
        loop.remove_reader(self._connection.fileno())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self._sessions.values():
            session.close()
        await self._factory.close()

    def _read(self, reader: FrameReader, stop: asyncio.Event) -> None:
        """Take what the pool sent; without a pool there is nothing left to do."""
        try:
            data = self._inbox.receive(self._connection)
            if not data:
                stop.set()
            for frame in reader.feed(data):
                message: Message = decode_frame(
                    frame, OpenSession, RunBlock, BeginBlock, CloseSession
                )
                self._spawn(self._handle(message))
        except BlockingIOError:
            return
        except (OSError, WireError):
            stop.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, message: Message) -> None:
        async with self._outgoing:
            with contextlib.suppress(OSError):
                data = encode_frame(message)
                await asyncio.get_running_loop().sock_sendall(self._connection, data)

    # -- requests ------------------------------------------------------------------------------

    async def _handle(self, message: Message) -> None:
        if isinstance(message, OpenSession):
            await self._open(message)
        elif isinstance(message, RunBlock):
            await self._run(message)
        elif isinstance(message, BeginBlock):
            self._begin(message.id)
        elif isinstance(message, CloseSession):
            await self._close(message)

    async def _open(self, request: OpenSession) -> None:
        try:
            if len(self._sessions) >= self._settings.sessions:
                raise SessionLost(f"more than {self._settings.sessions} sessions are open")
            self._sessions[request.session] = await self._factory.open(request.images)
        except ValueError as error:
            await self._send(Failed(request.id, FailureKind.CALLER, _text(error)))
        except Exception as error:  # noqa: BLE001 - whoever asked must get an answer
            if not isinstance(error, (SessionLost, OSError)):
                traceback.print_exc()  # a mistake of ours; the pool shows what a worker said
            await self._send(Failed(request.id, FailureKind.SANDBOX, _text(error)))
        else:
            await self._send(Done(request.id))
            self._factory.fill_spares()

    async def _run(self, request: RunBlock) -> None:
        key = request.session
        if self._running and request.held:
            begins = self._held[request.id] = asyncio.get_running_loop().create_future()
            await begins
        else:
            self._count_block()
        session = self._sessions.get(key)
        answer: Message
        try:
            if session is None:
                raise SessionLost("the session is closed or was lost")
            async with self._turn_of(session):
                if self._sessions.get(key) is not session:
                    raise SessionLost("the session is closed or was lost")
                await self._settle_large()
                session.is_running = True
                try:
                    spent_s = await self._settle_before(session)
                    limit_s = request.timeout_s
                    if spent_s > _FREE_SETTLING_S:
                        limit_s = max(limit_s / 2, limit_s - spent_s)
                    result = await session.run(request.code, limit_s)
                    if not self._commits_late:
                        await session.settle()
                finally:
                    session.is_running = False
            answer = BlockDone.of(request.id, result)
        except Exception as error:  # noqa: BLE001 - one session must not take the others along
            if not isinstance(error, SessionLost):
                traceback.print_exc()
            if session is not None:
                self._lose(key, session)
            answer = Failed(request.id, FailureKind.SANDBOX, _text(error))
        finally:
            self._end_block()
        await self._send(answer)
        if session is not None and isinstance(answer, BlockDone):
            if self._settles_large and session.memory_in_use() > _LARGE_BYTES:
                self._large[key] = session
            self._spawn(self._settle_later(key, session))

    @contextlib.asynccontextmanager
    async def _turn_of(self, session: Session) -> AsyncIterator[None]:
        """Hold the turn of a session; while it has to be waited for, blocks of others begin."""
        if session.turn.locked():
            self._end_block()
            try:
                await session.turn.acquire()
            finally:
                self._count_block()
        else:
            await session.turn.acquire()
        try:
            yield
        finally:
            session.turn.release()

    async def _settle_before(self, session: Session) -> float:
        """Settle the last block of a session whose next one waits; return the seconds it took.

        Where that is long, blocks of other sessions begin meanwhile.
        """
        if not session.is_unsettled:
            return 0.0
        began = time.monotonic()
        is_alone = False

        def let_others_begin() -> None:
            nonlocal is_alone
            is_alone = True
            self._end_block()

        timer = asyncio.get_running_loop().call_later(_SETTLE_ALONE_S, let_others_begin)
        try:
            await session.settle(hurry=True)
        finally:
            timer.cancel()
            if is_alone:
                self._count_block()
        return time.monotonic() - began

    def _end_block(self) -> None:
        """Let what waits for the end of a block begin."""
        self._running -= 1
        if not self._running:
            self._begin(next(iter(self._held), 0))
        if not self._running:
            self._idle.set()

    def _count_block(self) -> None:
        self._running += 1
        self._idle.clear()

    def _begin(self, identifier: int) -> None:
        """Let a block begin that was held, if it has not yet."""
        begins = self._held.pop(identifier, None)
        if begins is not None:
            self._count_block()
            begins.set_result(None)

    async def _close(self, request: CloseSession) -> None:
        session = self._sessions.pop(request.session, None)
        if session is not None:
            # A block that still runs is cut short; one that is over leaves in good order.
            async with contextlib.nullcontext() if session.is_running else session.turn:
                session.close()
            session.remove_folder()
        await self._send(Done(request.id))

    # -- commits -------------------------------------------------------------------------------

    async def _settle_large(self) -> None:
        """Settle sessions that hold much memory twice: the next block can use what that frees.

        It waits no longer for them than a moment: a session's commit is its own affair.
        """
        large, self._large = self._large, {}
        settling = [
            asyncio.ensure_future(self._settle_in_turn(key, session))
            for key, session in large.items()
            if not session.turn.locked()
        ]
        if settling:
            self._tasks.update(settling)
            for task in settling:
                task.add_done_callback(self._tasks.discard)
            await asyncio.wait(settling, timeout=_LARGE_WAIT_S)

    async def _settle_in_turn(self, key: int, session: Session) -> None:
        async with session.turn:
            await self._settle(key, session, hurry=True)

    async def _settle_later(self, key: int, session: Session) -> None:
        """Commit or undo the last block of a session while nobody waits for a result.

        Its next block does so itself where it comes earlier, and a session that is closed before
        needs neither.
        """
        async with self._settling:
            # Under load the next block is there at once, and it is faster in a settling of its own.
            await asyncio.sleep(_SETTLE_DELAY_S)
            while self._running:
                await self._idle.wait()
                await asyncio.sleep(_SETTLE_DELAY_S)
            async with session.turn:
                await self._settle(key, session, hurry=False)

    async def _settle(self, key: int, session: Session, hurry: bool) -> None:
        """Settle a session whose turn is taken, unless it is closed meanwhile."""
        if self._sessions.get(key) is not session:
            return
        try:
            await session.settle(hurry)
        except Exception as error:  # noqa: BLE001 - one session must not take the others along
            # The session's next block fails with this; there may be none.
            sys.stderr.write(f"a session was lost between its blocks: {_text(error)}\n")
            if not isinstance(error, SessionLost):
                traceback.print_exc()
            self._lose(key, session)

    def _lose(self, key: int, session: Session) -> None:
        if self._sessions.get(key) is session:
            del self._sessions[key]
        session.close()
        session.remove_folder()


def _text(error: Exception) -> str:
    return clean_text(str(error) or type(error).__name__, MAX_REASON_CHARS)


if __name__ == "__main__":
    main()
