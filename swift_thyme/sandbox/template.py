"""The template: the process that sessions are forked from.

It has loaded the libraries and sees no request: neither code nor paths nor pictures. So a session
cannot find anything of another one in the memory that it starts with. The worker asks it over a
socket for a keeper, which becomes a child of the worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import NoReturn

from swift_thyme.sandbox import linux, rootfs
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.confine import close_descriptors
from swift_thyme.sandbox.keeper import keeper_main
from swift_thyme.sandbox.layers import NAMESPACE_FLAGS
from swift_thyme.sandbox.memory_image import written_ranges
from swift_thyme.sandbox.message_codec import Message, decode_datagram, encode_datagram
from swift_thyme.sandbox.messages import MAX_REASON_CHARS, Broken, Made, MakeSession, MakeTemplate
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session_config import Confinement, SessionConfig
from swift_thyme.sandbox.session_folders import private_folders
from swift_thyme.sandbox.wire import clean_text

__all__ = ["template_main"]

_MAX_MESSAGE = 16 * 1024
_LEARNING_SESSIONS = 4
"""Sessions after which a template knows which memory its own work writes to."""
_STANDARD_ERROR = 2


def template_main(
    control: socket.socket,
    settings: SandboxSettings,
    confinement: Confinement,
    library_bytes: int,
) -> NoReturn:
    """Run a template in a process that was just forked; never returns.

    Args:
        control: The connection to the worker.
        settings: The limits of all sessions.
        confinement: Their layers.
        library_bytes: Address space that the libraries take.
    """
    try:
        _Template(control, settings, confinement, library_bytes).serve()
    finally:
        os._exit(0)


class _Template:
    def __init__(
        self,
        control: socket.socket,
        settings: SandboxSettings,
        confinement: Confinement,
        library_bytes: int,
    ) -> None:
        self._control = control
        self._settings = settings
        self._confinement = confinement
        self._library_bytes = library_bytes
        self._sources = tuple(rootfs.readable_paths(settings.tools))
        self._made = 0
        self._written: list[tuple[int, int]] = []

    def serve(self) -> None:
        self._begin()
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, 1)
            if not data:
                return
            connection = socket.socket(fileno=descriptors[0])
            message: Message = decode_datagram(data, MakeSession, MakeTemplate)
            try:
                answer = self._make(message, connection)
            except OSError as error:
                answer = Broken(clean_text(str(error), MAX_REASON_CHARS))
            connection.close()
            if answer is None:
                continue  # this is the new template
            self._control.send(encode_datagram(answer))
            if self._settings.uses(Acceleration.EARLY_FAULTS):
                self._own_memory()

    def _begin(self) -> None:
        """Let go of everything of the process that this one was forked from."""
        close_descriptors({self._control.fileno(), _STANDARD_ERROR})
        # What a terminal sends is meant for others; the worker's end is this one's.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if linux.SUPPORTED:
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _make(self, message: Message, connection: socket.socket) -> Message | None:
        if isinstance(message, MakeTemplate):
            pid = _fork_sibling(0)
            if pid:
                return Made(pid)
            self._control.close()
            self._control = socket.socket(fileno=connection.detach())
            self._begin()
            return None
        assert isinstance(message, MakeSession)
        flags = NAMESPACE_FLAGS if self._confinement.namespaces else 0
        pid = _fork_sibling(flags)
        if not pid:
            keeper_main(connection, self._config(message), self._library_bytes)
        self._made += 1
        return Made(pid)

    def _config(self, message: MakeSession) -> SessionConfig:
        return SessionConfig(
            self._settings,
            self._confinement,
            self._sources,
            rootfs.MOUNTED if message.base is None else private_folders(message.base),
            message.base,
            message.user_id,
            message.disk_bytes,
        )

    def _own_memory(self) -> None:
        """Take the page faults now that a fork leaves to the next request.

        This process shares its memory with the session that it forked until it writes to it.
        """
        if self._made <= _LEARNING_SESSIONS:
            self._written = written_ranges()
        for address, size in self._written:
            linux.own_pages(address, size)


def _fork_sibling(flags: int) -> int:
    """Fork a child of this process's parent.

    Args:
        flags: Namespaces to make for it.

    Returns:
        Its process id, 0 in itself.

    Raises:
        OSError: It cannot be made.
    """
    if linux.SUPPORTED:
        try:
            return linux.clone(flags | linux.CLONE_PARENT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    # Kernels that do not know the flag: a child whose parent ends goes to the worker, which
    # takes on orphans.
    return _fork_grandchild(lambda: linux.clone(flags) if flags else os.fork())


def _fork_grandchild(fork: Callable[[], int]) -> int:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(OSError):
            pid = fork()
            if pid == 0:
                os.close(read_end)
                os.close(write_end)
                return 0
            os.write(write_end, struct.pack("i", pid))
            status = 0
        os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    if not answer:
        raise OSError("a session's first process cannot be made")
    return int(struct.unpack("i", answer)[0])
