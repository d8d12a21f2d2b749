"""The worker process: loads the libraries once and makes sessions by forking itself.

Started by `python -m swift_thyme.sandbox.worker`, never forked from the trainer, so it has
neither CUDA nor threads nor secrets. It speaks frames over one inherited socket, supervises its
sessions and ends, with all of them, when that socket closes or its parent dies. It runs no code
of a model and decodes no image that one wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.sandbox import layers as layer_probe
from swift_thyme.sandbox import linux, rootfs, shims
from swift_thyme.sandbox.confine import measure_address_space, prepare_filters
from swift_thyme.sandbox.encoder import prepare_encoders
from swift_thyme.sandbox.frames import Frame, FrameReader, Inbox, WireError, pack
from swift_thyme.sandbox.memory_image import freeze_memory, written_ranges
from swift_thyme.sandbox.process_environment import hide_package_folder, session_environment
from swift_thyme.sandbox.processes import kill_tree
from swift_thyme.sandbox.runner import rehearse
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session import Session, SessionLost
from swift_thyme.sandbox.session_config import Confinement, ImageInfo, SessionConfig

__all__ = ["main"]

_FOLDER_PREFIX = "swift-thyme-sandbox-"
_SETTLE_DELAY_S = 0.002
_LARGE_BYTES = 16 << 20
"""Memory of a block from which on its predecessor's is not kept for longer than it must be."""
_LEARNING_SESSIONS = 4
"""Sessions after which a worker knows which memory its own work writes to."""
_RANGES_AT_ONCE = 64


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
    settings = _read_settings(connection)
    hide_package_folder()
    try:
        found = layer_probe.probe_here(settings)
        missing = [layer for layer in found if not layer.on and layer.required]
        if settings.mode == "strict" and missing:
            names = "; ".join(f"{layer.name}: {layer.reason}" for layer in missing)
            raise RuntimeError(f"THYME_SANDBOX=strict, but layers are missing: {names}")
        skipped = _preload(settings)
        worker = _Worker(connection, settings, layer_probe.confinement_from(found))
        worker.prepare()
        freeze_memory()
        worker.rehearse()
    except (RuntimeError, OSError) as error:
        connection.sendall(pack({"failure": str(error)}))
        return
    connection.sendall(pack({"layers": [list(layer) for layer in found], "skipped": skipped}))
    try:
        asyncio.run(worker.serve())
    finally:
        worker.end()


def _read_settings(connection: socket.socket) -> SandboxSettings:
    reader = FrameReader()
    while True:
        data = connection.recv(1 << 16)
        if not data:
            sys.exit(0)
        for frame in reader.feed(data):
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v
                for k, v in frame.header["settings"].items()
            }
            return SandboxSettings(**values)


def _preload(settings: SandboxSettings) -> list[str]:
    """Import the libraries; return the names of those that are not installed."""
    skipped = []
    warnings.simplefilter("ignore")
    standard = "uuid tempfile textwrap itertools functools collections datetime decimal fractions"
    standard += " statistics base64 glob shutil pathlib io csv copy string dataclasses inspect"
    for name in (*standard.split(), "PIL.ImageDraw", "PIL.ImageFont", "PIL.ImageEnhance"):
        importlib.import_module(name)
    for name in ("PIL.ImageFilter", "PIL.ImageOps", "PIL.ImageChops", "PIL.ImageStat"):
        importlib.import_module(name)
    for name in settings.preload:
        try:
            importlib.import_module(name)
        except ImportError:
            skipped.append(name)
    _warm_up()
    shims.install()
    os.environ.clear()
    os.environ.update(session_environment())
    gc.collect()
    gc.freeze()
    return skipped


def _warm_up() -> None:
    """Use each library once, so that what it sets up on first use is shared by all sessions."""
    import io

    import cv2
    import numpy
    from PIL import Image

    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    picture = numpy.zeros((64, 64, 3), numpy.uint8)
    for suffix in (".png", ".jpg"):
        _, data = cv2.imencode(suffix, picture)
        cv2.imdecode(data, cv2.IMREAD_COLOR)
        Image.open(io.BytesIO(data.tobytes())).convert("RGB").resize((32, 32)).save(
            io.BytesIO(), "PNG" if suffix == ".png" else "JPEG"
        )
    cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    if "matplotlib.pyplot" in sys.modules:
        pyplot = sys.modules["matplotlib.pyplot"]
        pyplot.plot([0, 1])
        pyplot.title("text")
        pyplot.savefig(io.BytesIO())
        pyplot.close("all")


class _Worker:
    def __init__(
        self, connection: socket.socket, settings: SandboxSettings, confinement: Confinement
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._confinement = confinement
        self._sources = tuple(rootfs.readable_paths())
        self._sessions: dict[int, Session] = {}
        self._spares: list[Session] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._outgoing: asyncio.Lock | None = None
        self._library_bytes = measure_address_space()
        self._folder = self._make_folder()
        self._serial = 0
        self._inbox = Inbox(1 << 18)
        self._filling = False
        self._written: list[tuple[int, int]] = []
        self._large: dict[int, Session] = {}
        self._running = 0
        self._held: dict[int, asyncio.Future[None]] = {}
        self._idle = asyncio.Event()
        self._settling = asyncio.Lock()

    # -- life ----------------------------------------------------------------------------------

    def _make_folder(self) -> str | None:
        """Make the folder that stands in for private mounts; clear those of dead workers."""
        _remove_stale_folders()
        if self._confinement.namespaces:
            return None
        folder = tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=_host_temporary())
        os.chmod(folder, 0o711)
        return folder

    def prepare(self) -> None:
        """Make what all sessions have in common."""
        prepare_filters(self._confinement)
        prepare_encoders()

    def rehearse(self) -> None:
        """Do once here what every session does, before there is one."""
        rehearse(SessionConfig(self._settings, self._confinement, (), rootfs.MOUNTED, None, None))

    def end(self) -> None:
        """Kill what is left and remove the folder."""
        kill_tree(os.getpid())
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._outgoing = asyncio.Lock()
        self._connection.setblocking(False)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal's, meant for others
        reader = FrameReader()
        loop.add_reader(self._connection.fileno(), lambda: self._read(reader, stop))
        self._fill_spares()
        await stop.wait()
        loop.remove_reader(self._connection.fileno())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in (*self._sessions.values(), *self._spares):
            session.close()

    def _read(self, reader: FrameReader, stop: asyncio.Event) -> None:
        """Take what the pool sent; without a pool there is nothing left to do."""
        try:
            data = self._inbox.receive(self._connection)
            if not data:
                stop.set()
            for frame in reader.feed(data):
                self._spawn(self._handle(frame))
        except BlockingIOError:
            return
        except (OSError, WireError):
            stop.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, header: dict[str, Any], blobs: list[bytes] | None = None) -> None:
        assert self._outgoing is not None
        async with self._outgoing:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(
                    self._connection, pack(header, blobs or [])
                )

    # -- requests ------------------------------------------------------------------------------

    async def _handle(self, frame: Frame) -> None:
        request = frame.header
        try:
            if request["op"] == "open":
                await self._open(request, frame.blobs)
            elif request["op"] == "run":
                await self._run(request)
            elif request["op"] == "begin":
                self._begin(request["id"])
            elif request["op"] == "close":
                await self._close(request)
        except ValueError as error:
            await self._send({"id": request["id"], "failure": str(error), "kind": "value"})
        except Exception as error:  # noqa: BLE001 - whoever asked must get an answer
            if not isinstance(error, (SessionLost, OSError)):
                traceback.print_exc()  # a mistake of ours; the pool shows what a worker said
            await self._send({"id": request["id"], "failure": _text(error), "kind": "lost"})

    async def _open(self, request: dict[str, Any], blobs: list[bytes]) -> None:
        session = self._spares.pop() if self._spares else None
        if session is None:
            session = await self._new_session()
        opened: list[tuple[ImageInfo, int]] = []
        try:
            for index, image in enumerate(request["images"]):
                descriptor, width, height = _upright(_open_source(image, blobs))
                real = session.real_path(image["path"], index)
                opened.append((ImageInfo(image["path"], real, width, height), descriptor))
            await session.attach(opened)
        except BaseException:
            session.close()
            raise
        finally:
            for _, descriptor in opened:
                os.close(descriptor)
        self._sessions[request["session"]] = session
        await self._send({"id": request["id"]})
        self._fill_spares()

    async def _run(self, request: dict[str, Any]) -> None:
        key = request["session"]
        header: dict[str, Any]
        blobs: list[bytes] = []
        if self._running and request.get("held"):
            begins = self._held[request["id"]] = asyncio.get_running_loop().create_future()
            await begins
        else:
            self._count_block()
        session = self._sessions.get(key)
        try:
            if session is None:
                raise SessionLost("the session is closed or was lost")
            async with session.turn:
                if self._sessions.get(key) is not session:
                    raise SessionLost("the session is closed or was lost")
                await self._settle_large()
                session.is_running = True
                try:
                    reply = await session.run(request["code"], request["timeout_s"])
                finally:
                    session.is_running = False
            header, blobs = {"result": reply.header}, reply.blobs
        except Exception as error:  # noqa: BLE001 - one session must not take the others along
            if not isinstance(error, SessionLost):
                traceback.print_exc()
            if session is not None:
                self._lose(key, session)
            header = {"failure": _text(error), "kind": "lost"}
        finally:
            self._running -= 1
            if not self._running:
                self._begin(next(iter(self._held), 0))
            if not self._running:
                self._idle.set()
        await self._send({"id": request["id"], **header}, blobs)
        if session is not None and "result" in header:
            if session.memory_in_use() > _LARGE_BYTES:
                self._large[key] = session
            self._spawn(self._settle_later(key, session))

    def _count_block(self) -> None:
        self._running += 1
        self._idle.clear()

    def _begin(self, identifier: int) -> None:
        """Let a block begin that was held back, if it has not yet."""
        begins = self._held.pop(identifier, None)
        if begins is not None:
            self._count_block()
            begins.set_result(None)

    async def _settle_large(self) -> None:
        """Settle sessions that hold much memory twice: the next block can use what that frees."""
        large, self._large = self._large, {}
        for key, session in large.items():
            if not session.turn.locked():
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

    async def _close(self, request: dict[str, Any]) -> None:
        session = self._sessions.pop(request["session"], None)
        if session is not None:
            # A block that still runs is cut short; one that is over leaves in good order.
            async with contextlib.nullcontext() if session.is_running else session.turn:
                session.close()
            session.remove_folder()
        await self._send({"id": request["id"]})

    # -- sessions ------------------------------------------------------------------------------

    def _fill_spares(self) -> None:
        if not self._filling and len(self._spares) < self._settings.spares:
            self._filling = True
            self._spawn(self._add_spares())

    async def _add_spares(self) -> None:
        try:
            while len(self._spares) < self._settings.spares:
                await asyncio.sleep(0.002)  # whatever is waiting goes first
                self._spares.append(await self._new_session())
                await self._own_memory()
        except (SessionLost, OSError) as error:
            # The next request that needs a session makes one itself, or fails with the reason.
            sys.stderr.write(f"a spare session could not be made: {error}\n")
        finally:
            self._filling = False

    async def _own_memory(self) -> None:
        """Take the page faults now that a fork leaves to the next request.

        The worker shares its memory with the session that it forked until it writes to it.
        """
        if self._serial <= _LEARNING_SESSIONS:
            self._written = written_ranges()
        for start in range(0, len(self._written), _RANGES_AT_ONCE):
            for address, size in self._written[start : start + _RANGES_AT_ONCE]:
                linux.own_pages(address, size)
            await asyncio.sleep(0)  # whatever came meanwhile goes first

    async def _new_session(self) -> Session:
        if len(self._sessions) >= self._settings.sessions:
            raise SessionLost(f"more than {self._settings.sessions} sessions are open")
        self._serial += 1
        user_id = layer_probe.pick_user_id() if self._confinement.change_user else None
        base = None
        folders = rootfs.MOUNTED
        if self._folder is not None:
            base, folders = _make_session_folders(self._folder, self._serial, user_id)
        config = SessionConfig(
            self._settings, self._confinement, self._sources, folders, base, user_id
        )
        session = Session(config, self._library_bytes)
        try:
            await session.start()
        except BaseException:
            session.close()
            session.remove_folder()
            raise
        return session


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _host_temporary() -> str:
    """Return the host's folder for temporary files; TMPDIR here is the session's."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else "/tmp"


def _make_session_folders(
    parent: str, serial: int, user_id: int | None
) -> tuple[str, rootfs.PrivateFolders]:
    base = f"{parent}/{serial}"
    names = ("output", "tmp", "shm", "inputs", "undo")
    for path in (base, *(f"{base}/{name}" for name in names)):
        os.mkdir(path, 0o700)
        if user_id is not None:
            os.chown(path, user_id, user_id)
    return base, rootfs.PrivateFolders(f"{base}/output", f"{base}/tmp", f"{base}/shm")


def _remove_stale_folders() -> None:
    """Remove folders whose worker is dead; a worker killed by SIGKILL cannot clean up."""
    for path in Path(_host_temporary()).glob(f"{_FOLDER_PREFIX}*"):
        pid = path.name[len(_FOLDER_PREFIX) :].split("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and path.stat().st_uid == os.geteuid():
                if not Path(f"/proc/{pid}").exists():
                    shutil.rmtree(path, ignore_errors=True)


def _open_source(image: dict[str, Any], blobs: list[bytes]) -> int:
    if image.get("file") is not None:
        return os.open(image["file"], os.O_RDONLY | os.O_CLOEXEC)
    return _memory_file(blobs[image["blob"]])


def _memory_file(data: bytes) -> int:
    descriptor = os.memfd_create("image", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _upright(descriptor: int) -> tuple[int, int, int]:
    """Return a descriptor of the upright image, which takes the other one's place, and its size.

    Input images come from our own data set, so their headers are read here. One that is not
    upright is decoded; the trainer hands over upright ones, so that trajectories share the work.
    """
    from swift_thyme.core.pictures import header, upright_bytes

    size, turned = (0, 0), None
    with open(os.dup(descriptor), "rb") as file, contextlib.suppress(DataError):
        found = header(file)
        if found.orientation != 1:
            file.seek(0)
            turned = upright_bytes(file.read())
        size = found.size
    if turned is not None:
        os.close(descriptor)
        return _memory_file(turned), *size
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor, *size


if __name__ == "__main__":
    main()
