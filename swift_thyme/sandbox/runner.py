"""The runner: the confined process in which code of the model runs.

Everything it reports is untrusted, because the code shares its memory. The worker therefore takes
the report of a block only as text to check and cut; time, memory and output are measured, and
images read, by processes that this code cannot reach. State survives by forking: after a block
that succeeded a child takes over and its parent, frozen, is the state to go back to. Each of them
has a connection of its own to the worker, which code that runs in another one cannot spoil.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import gc
import linecache
import os
import random
import resource
import signal
import socket
import struct
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from swift_thyme.sandbox import (
    dead_threads,
    landlock,
    linux,
    mapped_files,
    path_map,
    repair,
    seccomp,
    shims,
    standard_streams,
)
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.confine import close_descriptors, confine_runner
from swift_thyme.sandbox.crop_watch import CROPS
from swift_thyme.sandbox.mending import Mending
from swift_thyme.sandbox.message_codec import Message, decode_datagram, encode_datagram
from swift_thyme.sandbox.messages import (
    MAX_PROGRAM_CHARS,
    MAX_REASON_CHARS,
    MAX_REPAIRS,
    MAX_SAVED,
    BlockReport,
    Broken,
    ErrorKind,
    HandOver,
    ReportedError,
    RunnerReady,
    RunProgram,
    SavedFile,
)
from swift_thyme.sandbox.open_files import OpenFiles
from swift_thyme.sandbox.rootfs import MOUNTED
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS, ImageInfo, SessionConfig
from swift_thyme.sandbox.wire import clean_text

__all__ = ["BLOCK_NAME", "MAX_REPORT_BYTES", "rehearse", "runner_main"]

MAX_REPORT_BYTES = 96 * 1024
MAX_REQUEST_BYTES = 192 * 1024
BLOCK_NAME = "<block {}>"
_MAX_ERROR_CHARS = 2000
_HUGE_PAGE = 2 << 20
_ONE_DESCRIPTOR = socket.CMSG_SPACE(4)


def runner_main(
    connection: socket.socket, stdout: int, config: SessionConfig, library_bytes: int
) -> NoReturn:
    """Serve blocks in a process that was just forked; never returns."""
    try:
        # The last number that the code's own files will get.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        stdout = fcntl.fcntl(stdout, fcntl.F_DUPFD, min(limit, config.settings.open_files) - 1)
        close_descriptors({connection.fileno(), stdout})
        os.dup2(stdout, 1)
        os.chdir(config.folders.output)  # the keeper works in a folder of its own
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _reset_interpreter()
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
            if config.settings.uses(Acceleration.HUGE_PAGES):
                linux.align_memory(_HUGE_PAGE)
        confine_runner(config, library_bytes)
        _Runner(connection, config, stdout).serve()
    except Exception as error:  # noqa: BLE001 - the worker must learn why, whatever it was
        reason = clean_text(f"{type(error).__name__}: {error}", MAX_REASON_CHARS)
        connection.send(encode_datagram(Broken(reason)))
    finally:
        os._exit(71)


def _reset_interpreter() -> None:
    """Make this fork of the template look like a Python that just started."""
    # Each session draws its own random numbers, as separate Python processes would.
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # Without a seed it finds one of its own, which takes a tenth of a millisecond longer.
        numpy.random.seed(struct.unpack("4I", os.urandom(16)))
    sys.argv = [""]
    sys.stdin = sys.__stdin__ = open(os.devnull)  # type: ignore[misc]
    standard_streams.show_warnings()
    gc.enable()


def rehearse(config: SessionConfig) -> None:
    """Do what a block does, so that the memory which that needs is mapped in every fork."""
    streams = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    _Runner(None, config, 1).rehearse()
    sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]


class _Runner:
    def __init__(
        self, connection: socket.socket | None, config: SessionConfig, stdout: int
    ) -> None:
        self._connection = connection
        self._config = config
        self._block = 0
        self._successor = 0
        self._open_files: OpenFiles | None = None
        self._inbox = bytearray(MAX_REQUEST_BYTES + 1024)
        self._module = types.ModuleType("__main__")
        self._streams = standard_streams.StandardStreams(stdout)

    def serve(self) -> None:
        sys.modules["__main__"] = self._module
        self._get_ready(hurry=False)
        while True:
            message, descriptors = self._receive()
            if isinstance(message, RunProgram):
                self._send(_encoded(self._run(message)))
            elif isinstance(message, HandOver):
                self._hand_over(message, descriptors)

    def _get_ready(self, hurry: bool) -> None:
        """Do what the next block needs done; only what it must have where it waits already."""
        self._confine_block()
        if not hurry and self._config.settings.uses(Acceleration.REHEARSAL):
            self.rehearse()
        self._send(encode_datagram(RunnerReady()))

    def _receive(self) -> tuple[Message, list[int]]:
        assert self._connection is not None
        # As many descriptors as one order has; the kernel closes what there is no room for.
        size, ancillary, _, _ = self._connection.recvmsg_into([self._inbox], _ONE_DESCRIPTOR)
        if not size:
            os._exit(0)
        descriptors = [
            struct.unpack("i", data[:4])[0]
            for level, kind, data in ancillary
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4
        ]
        return self._decode(size), descriptors

    def _decode(self, size: int) -> Message:
        return decode_datagram(self._inbox[:size], RunProgram, HandOver)

    def _send(self, data: bytes) -> None:
        assert self._connection is not None
        try:
            self._connection.send(data)
        except OSError:
            os._exit(72)  # the code closed our descriptor: it cannot report, so it is over

    def _hand_over(self, message: HandOver, descriptors: list[int]) -> None:
        """Fork: the child goes on with a connection of its own, the parent waits to do so again."""
        if self._successor:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._successor, os.WNOHANG)
        if self._open_files is None:
            self._open_files = OpenFiles(MOUNTED.writable)
        else:
            self._open_files.bring_back()  # the block that was undone has moved their places
        had_threads = _thread._count() > 0
        self._successor = _fork_unnoticed()
        if self._successor:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self._open_files = None
        if had_threads:
            dead_threads.bury()
        assert self._connection is not None
        self._connection.close()
        self._connection = socket.socket(fileno=descriptors[0])
        self._get_ready(message.hurry)

    def _confine_block(self) -> None:
        """Keep this block from touching the process that holds the state from before it."""
        confinement = self._config.confinement
        nested = landlock.restrict_scope(confinement.landlock_abi)
        if not confinement.seccomp:
            return
        if not confinement.namespaces:
            linux.install_seccomp(seccomp.build_self_signal_filter(os.getpid()))
        elif not nested:
            # An older kernel, or more blocks than there can be domains in each other.
            linux.install_seccomp(seccomp.build_descendant_signal_filter(os.getpid()))

    def _run(self, message: RunProgram) -> BlockReport:
        images = list(message.images)
        if self._config.base is not None:
            path_map.install_path_map(self._config.folders, images, self._config.settings.tools)
        if self._block == 0:
            self._module.__dict__.update(repair.preset_names(images))
        self._block += 1
        limit = int(message.timeout_s * 4) + 2
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (min(limit, hard), hard))
        name = BLOCK_NAME.format(self._block)
        code = message.code.decode("utf-8", "surrogatepass")
        return self._execute(code, images, name, self._module.__dict__, message.mending)

    def _execute(
        self,
        code: str,
        images: list[ImageInfo],
        name: str,
        namespace: dict[str, Any],
        mending: Mending | None,
    ) -> BlockReport:
        """Run a program, with what is to be mended, and return the report of it."""
        streams = self._streams
        streams.begin()
        done = Mending() if mending is None else mending
        recorder = shims.start(images, self._config.folders, done, streams.stdout, streams.pipe)
        process = os.getpid()
        error: ReportedError | None = None
        failure: BaseException | None = None
        fixed: repair.RepairedCode | None = None
        written = code
        try:
            fixed = repair.repair_code(code, images, namespace, done, self._block)
            recorder.repairs += fixed.repairs
            code = fixed.source
            _remember_source(name, code)
            program = compile(fixed.tree, name, "exec", dont_inherit=True)
            exec(program, namespace)
            if fixed.assigns_processed_path:
                recorder.print_processed_path(namespace.get("processed_path"))
        except SystemExit as leave:
            if leave.code not in (None, 0, False):
                error = _error(f"SystemExit: {leave.code}")
                failure = leave
        except BaseException as problem:  # noqa: BLE001 - whatever the code raised is its result
            error = _describe(problem, name, code)
            failure = problem
        if os.getpid() != process:
            os._exit(0)  # a child that the code forked came out of it
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        try:
            streams.finish()
        except (OSError, ValueError):
            error = error or _error("the output was closed")
        second, text = None, None
        if fixed is not None:
            with contextlib.suppress(Exception):  # the code may have broken any module
                second = repair.second_run(failure, code, images, recorder.missed, done)
                fault = CROPS.last_fault() if failure is not None else None
                if fault is not None and error is not None:
                    error = _error(f"{error.text}\n{fault}", error.kind)
                if fixed.repairs or done:
                    text = repair.as_it_was_run(written, fixed)
        return BlockReport(
            error,
            tuple(dict.fromkeys(recorder.repairs))[:MAX_REPAIRS],
            tuple(
                SavedFile(place, path, path in recorder.shown)
                for place, path in recorder.events[-MAX_SAVED:]
                if _fits(path)
            ),
            {a: b for a, b in list(recorder.aliases.items())[:MAX_SAVED] if _fits(a) and _fits(b)},
            mapped_files.maps_files(),
            second,
            None if text is None else clean_text(text, MAX_PROGRAM_CHARS),
        )

    def rehearse(self) -> None:
        """Take the page faults of a fork now instead of in the next block.

        A fork shares its memory with its parent until it writes to it, and the interpreter writes
        to almost everything that it uses: a block of the usual kind copies those pages.
        """
        with contextlib.suppress(Exception):  # the code may have broken any module: none then
            self._inbox[: len(_REHEARSAL)] = _REHEARSAL
            message = self._decode(len(_REHEARSAL))
            assert isinstance(message, RunProgram)
            images = list(message.images)
            resource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))
            namespace = repair.preset_names(images)
            report = self._execute(message.code.decode(), images, "<rehearsal>", namespace, None)
            linecache.cache.pop("<rehearsal>", None)
            _encoded(report)


_REHEARSAL = encode_datagram(
    RunProgram(
        b"""
import os
import cv2
import numpy as np
from PIL import Image
from uuid import uuid4
image_path = "/dev/null"
x1, y1, x2, y2 = 4, 4, 28, 28
try:
    image = cv2.imread(image_path)
    crop = image[y1:y2, x1:x2]
except Exception:
    image = np.zeros((32, 32, 3), np.uint8)
crop = cv2.resize(image[y1:y2, x1:x2], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
crop = cv2.imdecode(cv2.imencode(".jpg", crop)[1], cv2.IMREAD_COLOR)
size = Image.fromarray(crop).size
name = os.path.join("/dev", f"crop_{str(uuid4())[:8]}_{size[0]}.jpg")
os.path.exists(os.path.abspath(name))
""",
        (ImageInfo("/dev/null", "/dev/null", 64, 64),),
        1.0,
    )
)


def _encoded(report: BlockReport) -> bytes:
    """Return the bytes of a report, without hints where there are too many to send."""
    data = encode_datagram(report)
    if len(data) <= MAX_REPORT_BYTES:
        return data
    return encode_datagram(BlockReport(report.error, report.repairs, (), {}, report.maps))


def _fits(path: str) -> bool:
    """Tell whether a path can be told; one that is no Unicode is found without a hint."""
    return clean_text(path, MAX_PATH_CHARS) == path


def _fork_unnoticed() -> int:
    """Fork without telling the program, for which nothing has happened.

    What Python and libraries do after a fork, such as seeding random numbers afresh, would change
    the state that is to be kept. It also writes to 200 pages, each of which has to be copied first.
    """
    if _thread._count():
        state = random.getstate()
        pid = _patiently(os.fork)  # other threads end with the fork, which Python must be told
        if pid == 0:
            random.setstate(state)
        return pid
    return _patiently(linux.fork)


def _patiently(fork: Callable[[], int]) -> int:
    """Fork; wait while processes of the block that were killed still count."""
    for _ in range(200):
        try:
            return fork()
        except BlockingIOError:
            time.sleep(0.01)
    return fork()


def _remember_source(name: str, code: str) -> None:
    """Let tracebacks and `inspect.getsource` find the lines of a block."""
    lines = code.splitlines(keepends=True)
    linecache.cache[name] = (len(code), None, lines, name)


def _clip(text: str) -> str:
    if len(text) <= _MAX_ERROR_CHARS:
        return text
    half = _MAX_ERROR_CHARS // 2
    return f"{text[:half]} ... {text[-half:]}"


def _error(text: str, kind: ErrorKind = ErrorKind.ERROR) -> ReportedError:
    clipped = _clip(text)
    return ReportedError(kind, clean_text(clipped, len(clipped)))


def _describe(problem: BaseException, name: str, code: str) -> ReportedError:
    """Return the kind and the short text of an exception: its last line and the failing line."""
    kind = ErrorKind.MEMORY if isinstance(problem, MemoryError) else ErrorKind.ERROR
    try:
        last = traceback.format_exception_only(type(problem), problem)[-1].strip()
    except Exception:  # noqa: BLE001 - the code's exception may refuse to be printed
        last = type(problem).__name__
    if kind is ErrorKind.ERROR and "Insufficient memory" in last:
        kind = ErrorKind.MEMORY
    number, source = _failing_line(problem, name, code)
    where = f"line {number}: {source}\n" if number else ""
    return _error(where + last, kind)


def _failing_line(problem: BaseException, name: str, code: str) -> tuple[int, str]:
    number = 0
    if isinstance(problem, SyntaxError) and problem.filename in (name, "<unknown>", None):
        number = problem.lineno or 0
    else:
        frame = problem.__traceback__
        while frame is not None:
            if frame.tb_frame.f_code.co_filename == name:
                number = frame.tb_lineno
            frame = frame.tb_next
    lines = code.splitlines()
    if not 0 < number <= len(lines):
        return 0, ""
    return number, lines[number - 1].strip()[:300]
