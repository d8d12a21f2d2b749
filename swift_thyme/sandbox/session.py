"""One session as the worker sees it: its processes, its limits, its results.

The worker trusts the keeper and nothing else in a session. A block is over when its process says
so, ends, or is over a limit; whichever it is, every other process of the block is killed before
its output is read, and what goes back is measured or checked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from swift_thyme.core.execution import ExecutionStatus
from swift_thyme.sandbox import linux
from swift_thyme.sandbox.channel import Channel, Closed
from swift_thyme.sandbox.files import disk_use
from swift_thyme.sandbox.frames import Frame, FrameReader, Inbox, WireError, pack
from swift_thyme.sandbox.keeper import KeeperPipes, keeper_main
from swift_thyme.sandbox.layers import NAMESPACE_FLAGS, write_maps
from swift_thyme.sandbox.output import (
    CappedOutput,
    FoundImages,
    Hints,
    assemble,
    find_paths,
    hints_from,
    tidy_error,
)
from swift_thyme.sandbox.processes import (
    descendants,
    kill_quietly,
    kill_tree,
    kill_tree_async,
    resident_bytes,
    thread_count,
)
from swift_thyme.sandbox.runner import MAX_REQUEST_BYTES
from swift_thyme.sandbox.session_config import ImageInfo, SessionConfig

__all__ = ["BlockReply", "Session", "SessionLost"]

MIB = 1024 * 1024
_KEEPER_TIMEOUT_S = 20.0
_COMMIT_TIMEOUT_S = 5.0
_ENCODE_TIMEOUT_S = 30.0
_WATCH_INTERVAL_S = 0.03
_INBOX = Inbox(1 << 18)
_TAMPERED = "the code interfered with the sandbox and was stopped"


class SessionLost(Exception):
    """The session's own processes failed; not the fault of the code."""


class BlockReply(NamedTuple):
    """What goes back to the pool for one block."""

    header: dict[str, Any]
    blobs: list[bytes]


class _Ending(NamedTuple):
    """How a block ended."""

    status: ExecutionStatus
    error: str | None
    report: dict[str, Any]


class _Answer:
    """What the encoder answers to one request."""

    def __init__(self, frame: asyncio.Future[Frame], max_blob: int) -> None:
        self.frame = frame
        self._reader = FrameReader(max_blob=max_blob)

    def add(self, data: bytes | memoryview) -> None:
        """Take in bytes; none means that there will be no more."""
        if not data:
            self.fail(WireError("the encoder is gone"))
        try:
            for frame in self._reader.feed(data):
                if not self.frame.done():
                    self.frame.set_result(frame)
        except WireError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Make the asker see an error, where there is no answer yet."""
        if not self.frame.done():
            self.frame.set_exception(error)


class Session:
    """The processes of one trajectory.

    Args:
        config: Its surroundings.
        library_bytes: Address space of the worker, which its forks start with.
    """

    def __init__(self, config: SessionConfig, library_bytes: int) -> None:
        self._config = config
        self._library_bytes = library_bytes
        self._base_resident = 0
        self._control = Channel()
        self._runs = Channel()
        self._encoder, self._encoder_other = _stream_pair()
        self._stdout, self._stdout_other = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stdout, False)
        self._keeper = 0
        self._runner = 0
        self._checkpoint = 0
        self._encoder_pid = 0
        self._encoder_is_new = False
        self._answer_of_encoder: _Answer | None = None
        self._images: list[ImageInfo] = []
        # Held while a block runs and while it is committed or undone, which is after its result
        # is out: the next block may be asked for before that.
        self.turn = asyncio.Lock()
        self.is_running = False
        self._unsettled: Callable[[bool], Awaitable[None]] | None = None
        self._closed = False
        self._pidfd = -1

    # -- opening and closing -------------------------------------------------------------------

    async def start(self) -> None:
        """Make the processes.

        Raises:
            SessionLost: They could not be made.
        """
        flags = NAMESPACE_FLAGS if self._config.confinement.namespaces else 0
        pipes = KeeperPipes(
            self._control.other, self._runs.other, self._encoder_other, self._stdout_other
        )
        pid = linux.clone(flags) if flags else os.fork()
        if pid == 0:
            keeper_main(pipes, self._config, self._library_bytes)
        self._keeper = pid
        pipes.close()
        try:
            _prefer_for_oom(pid)
            if flags:
                write_maps(pid, self._config.user_id)
            self._control.send_raw(b"go")
            answer = await self._answer()
            if not answer.get("ok"):
                raise SessionLost(str(answer.get("failure")))
            await self._await_ready()
            self._base_resident = resident_bytes(self._runner)
            self._encoder_pid = self._new_child({self._runner})
            asyncio.get_running_loop().add_reader(self._encoder.fileno(), self._on_encoder)
        except (OSError, Closed) as error:
            raise SessionLost(f"a session could not start: {error}") from error

    async def attach(self, images: list[tuple[ImageInfo, int]]) -> None:
        """Give the session its input images, as open descriptors that stay the caller's.

        Raises:
            SessionLost: The session is broken.
            ValueError: A path cannot be used.
        """
        answer = await self._ask(
            {"op": "attach", "paths": [info.path for info, _ in images]},
            [descriptor for _, descriptor in images],
        )
        if not answer.get("ok"):
            raise ValueError(f"an image cannot be placed in the sandbox: {answer.get('failure')}")
        self._images = [info for info, _ in images]

    def close(self) -> None:
        """Kill everything and release every descriptor; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._keeper:
            if not self._config.confinement.namespaces:
                kill_tree(self._keeper)
            kill_quietly(self._keeper)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._keeper, 0)
        self._control.close()
        self._runs.close()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._encoder.fileno())
        self._encoder.close()
        loop.remove_reader(self._stdout)
        os.close(self._stdout)

    def real_path(self, path: str, index: int) -> str:
        """Return where the input image `index` is for the session's own processes."""
        base = self._config.base
        return path if base is None else f"{base}/inputs/{index}"

    def remove_folder(self) -> None:
        """Remove what is left on the host of a session without private mounts."""
        if self._config.base is not None:
            shutil.rmtree(self._config.base, ignore_errors=True)

    async def _answer(self) -> dict[str, Any]:
        try:
            message = await self._control.receive(_KEEPER_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise SessionLost("the session's keeper does not answer") from error
        except Closed as error:
            raise SessionLost("the session's keeper is gone") from error
        if not isinstance(message.body, dict):
            raise SessionLost("the session's keeper sent nonsense")
        return message.body

    async def _ask(self, request: dict[str, Any], descriptors: list[int] | None = None) -> Any:
        try:
            self._control.send(request, descriptors or [])
        except Closed as error:
            raise SessionLost("the session's keeper is gone") from error
        return await self._answer()

    async def _ask_ok(self, request: dict[str, Any]) -> Any:
        answer = await self._ask(request)
        if not answer.get("ok"):
            raise SessionLost(f"{request['op']}: {answer.get('failure')}")
        return answer

    # -- the chain of runners ------------------------------------------------------------------

    async def _await_ready(self, patience_s: float | None = None) -> bool:
        """Wait until a new runner waits for work, and freeze it.

        Args:
            patience_s: Seconds to wait for a runner that code of the model may have taken over;
                None where no such code can be involved, so that a failure is ours.

        Returns:
            False where such a runner did not do its part.

        Raises:
            SessionLost: The failure is ours.
        """
        try:
            message = await self._runs.receive(patience_s or _KEEPER_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            if patience_s is not None:
                return False
            raise SessionLost("a session's runner does not start") from error
        except Closed as error:
            raise SessionLost("a session's runner is gone") from error
        genuine = isinstance(message.body, dict)
        genuine = genuine and message.pid not in (0, self._runner, self._checkpoint)
        if patience_s is not None and not (genuine and "ready" in message.body):
            return False
        if not genuine:
            raise SessionLost("a session's runner sent nonsense")
        if "failure" in message.body:
            raise SessionLost(f"a session's runner failed: {message.body['failure']}")
        self._runner = message.pid
        kill_quietly(self._runner, signal.SIGSTOP)
        return True

    async def _commit(self, hurry: bool) -> None:
        """Make the state after a block that succeeded the one to go back to."""
        committed = self._runner
        kill_quietly(committed, signal.SIGCONT)
        try:
            self._runs.send({"op": "commit", "hurry": hurry})
            forked = await self._await_ready(_COMMIT_TIMEOUT_S)
        except Closed as error:
            raise SessionLost(str(error)) from error
        if not forked:
            # Only code that took our own process over gets here: its report was a forgery, and
            # the state from before it is still there.
            self._runner = committed
            await self._roll_back(hurry)
            return
        kill_quietly(committed, signal.SIGSTOP)
        previous, self._checkpoint = self._checkpoint, committed
        kill_quietly(previous)
        await self._ask_ok({"op": "commit"})
        if self._encoder_is_new:
            await self._rebase_encoder()
        else:
            self._tell_encoder("keep")

    async def _roll_back(self, hurry: bool) -> None:
        """Kill what is left of a block and go back to the state from before it."""
        kill_quietly(self._runner)
        keep = {self._encoder_pid, self._checkpoint}
        if not await kill_tree_async(self._keeper, keep):
            raise SessionLost("the code's processes could not be stopped")
        self._drain()
        await self._ask_ok({"op": "restore"})
        await self._rebase_encoder()
        if self._checkpoint:
            kill_quietly(self._checkpoint, signal.SIGCONT)
            await self._await_ready()
            kill_quietly(self._checkpoint, signal.SIGSTOP)
        else:
            await self._ask_ok({"op": "runner"})
            await self._await_ready()

    async def _end_processes(self, keep: set[int]) -> None:
        """Make sure that no process of the block but those in `keep` runs on.

        They may still be dying when this returns, but execute nothing any more.
        """
        keep = keep | {self._encoder_pid}
        # The system call filter lets an encoder make no process.
        childless = {self._encoder_pid} if self._config.confinement.seccomp else ()
        if not set(descendants(self._keeper, childless)) - keep - {self._runner}:
            return
        if self._config.confinement.namespaces:
            # Stops everything in one system call, which no fork can slip through.
            await self._ask_ok({"op": "freeze"})
            for pid in descendants(self._keeper):
                if pid not in keep:
                    kill_quietly(pid)
        elif not await kill_tree_async(self._keeper, keep):
            raise SessionLost("the code's processes could not be stopped")

    def _drain(self) -> None:
        """Throw away what dead processes left in the pipes."""
        with contextlib.suppress(Closed):
            while self._runs.receive_now() is not None:
                continue
        with contextlib.suppress(BlockingIOError):
            while os.read(self._stdout, 1 << 16):
                continue

    # -- running -------------------------------------------------------------------------------

    async def run(self, code: str, timeout_s: float) -> BlockReply:
        """Run one block and return its result; it is committed or undone by `settle`.

        Raises:
            SessionLost: The session is broken.
        """
        await self.settle(hurry=True)
        if len(code.encode("utf-8", "replace")) > MAX_REQUEST_BYTES // 2:
            status, error = ExecutionStatus.ERROR, "the program is too long"
            return BlockReply({"status": status.value, "error": error}, [])
        self._drain()
        output = CappedOutput(self._config.settings.stdout_kb * 1024)
        started = time.monotonic()
        ending = await self._supervise(code, timeout_s, output)
        duration_s = time.monotonic() - started
        if ending.status is ExecutionStatus.OK:
            problem = self._over_disk_limit()
            ending = ending if problem is None else _Ending(*problem, ending.report)
        if ending.status is ExecutionStatus.OK:
            kill_quietly(self._runner, signal.SIGSTOP)
            keep = {self._runner, self._checkpoint}
        else:
            kill_quietly(self._runner)
            keep = {self._checkpoint}
        await self._end_processes(keep)
        self._read_stdout(output)
        reply, failed = await self._collect(ending, output)
        reply.header["duration_s"] = duration_s
        self._unsettled = self._roll_back if failed else self._commit
        return reply

    @property
    def is_settled(self) -> bool:
        """Whether the last block was committed or undone."""
        return self._unsettled is None

    def memory_in_use(self) -> int:
        """Return by how many bytes the last block's process is larger than the first one was."""
        return resident_bytes(self._runner) - self._base_resident

    async def settle(self, hurry: bool = False) -> None:
        """Commit the block that just ran where it succeeded, undo it where it did not.

        Args:
            hurry: The next block waits for it already.

        Raises:
            SessionLost: The session is broken.
        """
        unsettled, self._unsettled = self._unsettled, None
        if unsettled is not None:
            await unsettled(hurry)

    async def _supervise(self, code: str, timeout_s: float, output: CappedOutput) -> _Ending:
        """Start the block and wait for its end or the first limit that it is over."""
        loop = asyncio.get_running_loop()
        settings = self._config.settings
        over: asyncio.Future[_Ending] = loop.create_future()

        def end(status: ExecutionStatus, error: str | None) -> None:
            if not over.done():
                over.set_result(_Ending(status, error, {}))

        def on_output() -> None:
            self._read_stdout(output)
            if output.total > settings.output_mb * MIB:
                loop.remove_reader(self._stdout)
                text = f"more than {settings.output_mb} MiB were printed"
                end(ExecutionStatus.OUTPUT_LIMIT, text)

        def on_report() -> None:
            ending = self._read_report()
            if ending is not None and not over.done():
                over.set_result(ending)

        def on_exit() -> None:
            # Its last words may be in the socket already.
            on_report()
            end(ExecutionStatus.KILLED, "the program ended its process")

        watching: asyncio.TimerHandle

        def watch() -> None:
            nonlocal watching
            problem = self._over_limit()
            if problem is not None:
                end(*problem)
            watching = loop.call_later(_WATCH_INTERVAL_S, watch)

        request = {"op": "run", "code": code, "images": self._images, "timeout_s": timeout_s}
        try:
            # Sent while it still is stopped, so that it wakes up once.
            self._runs.send(request)
            pidfd = os.pidfd_open(self._runner)
        except ProcessLookupError:
            return _Ending(ExecutionStatus.KILLED, "the session's process is gone", {})
        except Closed as error:
            raise SessionLost(str(error)) from error
        kill_quietly(self._runner, signal.SIGCONT)
        late = f"the code ran longer than {timeout_s:g} s and was stopped"
        timer = loop.call_later(timeout_s, end, ExecutionStatus.TIMEOUT, late)
        watching = loop.call_later(_WATCH_INTERVAL_S, watch)
        loop.add_reader(self._stdout, on_output)
        loop.add_reader(self._runs.fileno(), on_report)
        loop.add_reader(pidfd, on_exit)
        try:
            return await over
        finally:
            timer.cancel()
            watching.cancel()
            loop.remove_reader(pidfd)
            os.close(pidfd)
            if not self._closed:
                loop.remove_reader(self._stdout)
                loop.remove_reader(self._runs.fileno())

    def _read_report(self) -> _Ending | None:
        """Take the first message of the block, which is its last: anything else is a forgery."""
        try:
            message = self._runs.receive_now()
        except Closed:
            return _Ending(ExecutionStatus.KILLED, "the program ended its process", {})
        if message is None:
            return None
        body = message.body
        error = body.get("error") if isinstance(body, dict) else None
        genuine = message.pid == self._runner and isinstance(body, dict) and "done" in body
        if not genuine or not isinstance(error, (dict, type(None))):
            return _Ending(ExecutionStatus.KILLED, _TAMPERED, {})
        if error is None:
            return _Ending(ExecutionStatus.OK, None, body)
        memory = error.get("kind") == "memory"
        status = ExecutionStatus.MEMORY if memory else ExecutionStatus.ERROR
        return _Ending(status, str(error.get("text", "")), body)

    def _over_limit(self) -> tuple[ExecutionStatus, str] | None:
        """Tell whether the block's processes together are over a limit."""
        settings = self._config.settings
        keep = {self._checkpoint, self._encoder_pid}
        pids = [pid for pid in descendants(self._keeper) if pid not in keep]
        used = sum(max(0, resident_bytes(pid) - self._base_resident) for pid in pids)
        if used > settings.memory_mb * MIB:
            text = f"more than {settings.memory_mb} MiB of memory were used"
            return ExecutionStatus.MEMORY, text
        # The kernel's own limit does not hold for root without a user namespace.
        if sum(map(thread_count, pids)) > settings.processes + 1:
            text = f"more than {settings.processes} processes or threads were started"
            return ExecutionStatus.KILLED, text
        return self._over_disk_limit()

    def _over_disk_limit(self) -> tuple[ExecutionStatus, str] | None:
        """Count files where, without a mount namespace, the private folders have no size limit."""
        if self._config.base is None:
            return None
        settings = self._config.settings
        for folder in self._config.folders:
            size, entries = disk_use(folder, settings.disk_mb * MIB, settings.inodes)
            if size > settings.disk_mb * MIB or entries > settings.inodes:
                text = f"more than {settings.disk_mb} MiB or {settings.inodes} files were written"
                return ExecutionStatus.KILLED, text
        return None

    def _read_stdout(self, output: CappedOutput) -> None:
        for _ in range(64):
            try:
                data = os.read(self._stdout, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            output.add(data)

    # -- results -------------------------------------------------------------------------------

    async def _collect(self, ending: _Ending, output: CappedOutput) -> tuple[BlockReply, bool]:
        """Make the reply: text, images in order, and whether the block is to be undone."""
        text = tidy_error(output.text(), self._config)
        hints = hints_from(ending.report, output)
        try:
            found, images, blobs = await self._look_and_encode(text, hints)
        except (WireError, OSError, asyncio.TimeoutError):
            # A broken encoder costs the images, not the session.
            await self._replace_encoder()
            settings = self._config.settings
            answer = await self._ask_ok({"op": "changed", "limit": 4 * settings.images + 64})
            found = find_paths(text, hints, answer["paths"], self._images, self._config)
            images = [{"refused": "it cannot be decoded"} for _ in found.places]
            blobs = []
        error = None if ending.error is None else tidy_error(ending.error, self._config)
        assembled = assemble(text, found, images, ending.report, ending.status, error)
        failed = assembled["status"] != ExecutionStatus.OK.value
        assembled["stdout"] = text
        return BlockReply(assembled, blobs), failed

    async def _look_and_encode(
        self, text: str, hints: Hints
    ) -> tuple[FoundImages, list[dict[str, Any]], list[bytes]]:
        """Let the encoder find and read the images of the block."""
        request = {
            "op": "collect",
            "text": text,
            "events": hints.events,
            "aliases": hints.aliases,
            "inputs": self._images,
        }
        header, blobs = await self._ask_encoder(request)
        return (*_checked_images(header, len(text), len(blobs)), blobs)

    async def _ask_encoder(self, request: dict[str, Any]) -> Frame:
        """Send the encoder a request and return its answer.

        Raises:
            WireError, OSError, asyncio.TimeoutError: It is broken.
        """
        kill_quietly(self._encoder_pid, signal.SIGCONT)
        loop = asyncio.get_running_loop()
        settings = self._config.settings
        answer = _Answer(loop.create_future(), (settings.images + 1) * settings.image_mb * MIB)
        self._answer_of_encoder = answer
        timer = loop.call_later(_ENCODE_TIMEOUT_S, answer.fail, asyncio.TimeoutError())
        try:
            await self._send_to_encoder(pack(request))
            return await answer.frame
        finally:
            timer.cancel()
            self._answer_of_encoder = None

    def _on_encoder(self) -> None:
        """Take what the encoder sends; where it was asked nothing, nothing is to be had."""
        answer = self._answer_of_encoder
        try:
            data = _INBOX.receive(self._encoder)
        except BlockingIOError:
            return
        except OSError as error:
            data = memoryview(b"")
            if answer is not None:
                answer.fail(error)
        if not data:
            asyncio.get_running_loop().remove_reader(self._encoder.fileno())
        if answer is not None:
            answer.add(data)

    def _tell_encoder(self, operation: str) -> None:
        """Send the encoder something that it does not answer."""
        with contextlib.suppress(OSError):  # a broken one is found when it is asked
            self._encoder.send(pack({"op": operation}))

    async def _send_to_encoder(self, data: bytes) -> None:
        try:
            data = data[self._encoder.send(data) :]
        except BlockingIOError:
            pass
        if data:
            sending = asyncio.get_running_loop().sock_sendall(self._encoder, data)
            await asyncio.wait_for(sending, _ENCODE_TIMEOUT_S)

    async def _rebase_encoder(self) -> None:
        """Make the present files the ones against which the encoder finds new ones."""
        for _ in range(2):
            try:
                await self._ask_encoder({"op": "rebase"})
            except (WireError, OSError, asyncio.TimeoutError):
                await self._replace_encoder()
            else:
                self._encoder_is_new = False
                return
        raise SessionLost("the session's encoder does not start")

    async def _replace_encoder(self) -> None:
        self._encoder_is_new = True
        kill_quietly(self._encoder_pid)
        with contextlib.suppress(BlockingIOError):
            while self._encoder.recv(1 << 16):
                continue
        known = {self._runner, self._checkpoint, *descendants(self._keeper)}
        await self._ask_ok({"op": "encoder"})
        self._encoder_pid = self._new_child(known)

    def _new_child(self, known: set[int]) -> int:
        """Return the keeper's child that is not among the known processes."""
        return next((pid for pid in descendants(self._keeper) if pid not in known), 0)


def _checked_images(
    header: dict[str, Any], text_length: int, n_blobs: int
) -> tuple[FoundImages, list[dict[str, Any]]]:
    """Return what an encoder says it found.

    Raises:
        WireError: It says something that it cannot have found: a decoder was broken into.
    """
    try:
        places = [(int(start), int(end), str(path)) for start, end, path in header["places"]]
        repairs = [str(name) for name in header["repairs"]]
        images = []
        for item in header["images"]:
            image: dict[str, Any] = {}
            if "blob" in item:
                image["blob"], image["width"] = int(item["blob"]), int(item["width"])
                image["height"] = int(item["height"])
                image["repairs"] = [str(name) for name in item["repairs"]]
            elif "refused" in item:
                image["refused"] = str(item["refused"])
            images.append(image)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"nonsense from the encoder: {error!r}") from error
    in_text = all(0 <= start <= end <= text_length for start, end, _ in places)
    known = all(0 <= image.get("blob", 0) < max(1, n_blobs) for image in images)
    if not (in_text and known and len(places) == len(images)):
        raise WireError("the encoder's answer does not fit the block")
    return FoundImages([path for _, _, path in places], places, repairs), images


def _prefer_for_oom(pid: int) -> None:
    """Let the kernel, when memory runs out, end this process before the trainer."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("900")


def _stream_pair() -> tuple[socket.socket, socket.socket]:
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    own.setblocking(False)
    return own, other
