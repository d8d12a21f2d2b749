"""The keeper: first process of a session, and init of its pid namespace.

It holds the state from before the first block, builds the file system, makes the processes that
run and encode, and looks after the session's files. It never runs code of the model and never
looks at what that code wrote, only copies it. The worker talks to it over a socket and decides
everything; when the worker is gone, so is the keeper, and with it the whole session. Before the
first block it gives up every right that it does not need for the session's own files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from swift_thyme.sandbox import linux, rootfs
from swift_thyme.sandbox.confine import close_descriptors, confine_keeper
from swift_thyme.sandbox.encoder import encoder_main
from swift_thyme.sandbox.files import FileKeeper
from swift_thyme.sandbox.message_codec import Message, decode_datagram, encode_datagram
from swift_thyme.sandbox.messages import (
    MAX_IMAGES,
    MAX_REASON_CHARS,
    Attach,
    Broken,
    ChangedFiles,
    Finished,
    KeeperAction,
    KeeperOrder,
    ListChanged,
)
from swift_thyme.sandbox.processes import kill_tree
from swift_thyme.sandbox.runner import runner_main
from swift_thyme.sandbox.session_config import MAX_PATH_CHARS, SessionConfig
from swift_thyme.sandbox.wire import clean_text

__all__ = ["keeper_main"]

_MAX_MESSAGE = 256 * 1024
_MAX_LISTED_BYTES = 96 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
INNER_ID = 1000
"""User and group id inside a user namespace."""


def keeper_main(control: socket.socket, config: SessionConfig, library_bytes: int) -> NoReturn:
    """Run the keeper in a process that was just forked; never returns.

    Args:
        control: The connection to the worker.
        config: The session's surroundings.
        library_bytes: Address space that the libraries take.
    """
    status = 70
    try:
        _Keeper(control, config, library_bytes).serve()
        status = 0
    except Exception as error:  # noqa: BLE001 - the worker must learn why, whatever it was
        _tell(control, _broken(f"{type(error).__name__}: {error}"))
    finally:
        os._exit(status)


def _tell(control: socket.socket, message: Message) -> None:
    with contextlib.suppress(OSError):  # the worker is gone, and this process with it
        control.send(encode_datagram(message))


def _broken(reason: str, for_want_of_room: bool = False) -> Broken:
    return Broken(clean_text(reason, MAX_REASON_CHARS), for_want_of_room)


class _Keeper:
    def __init__(self, control: socket.socket, config: SessionConfig, library_bytes: int) -> None:
        self._control = control
        self._config = config
        self._library_bytes = library_bytes
        self._stdout = -1
        self._files: FileKeeper | None = None

    def serve(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        close_descriptors({self._control.fileno()})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need no wait
        os.setsid()
        message, descriptors = self._receive(KeeperOrder)
        assert isinstance(message, KeeperOrder)
        runner, self._stdout, encoder = descriptors
        namespaces = self._config.confinement.namespaces
        opened = rootfs.open_sources(self._config.sources) if namespaces else []
        self._take_on_user()
        self._die_with_parent()
        if namespaces:
            rootfs.build(opened, self._config.disk_bytes, self._config.settings.inodes)
        os.chdir(self._config.folders.output)
        self._spawn_runner(runner)
        self._spawn_encoder(encoder)
        for descriptor in (runner, encoder):
            os.close(descriptor)  # so that the worker sees the end of whoever has the other one
        _tell(self._control, Finished())
        while True:
            message, descriptors = self._receive(KeeperOrder, Attach, ListChanged)
            if message is None:
                break
            try:
                answer = self._handle(message, descriptors)
            except OSError as error:
                answer = _broken(str(error), error.errno in _NO_ROOM)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            _tell(self._control, answer)
        self._end()

    def _receive(self, *kinds: type[Message]) -> tuple[Message | None, list[int]]:
        """Return the worker's next message and descriptors; no message where it is gone."""
        data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, MAX_IMAGES)
        return decode_datagram(data, *kinds) if data else None, descriptors

    def _take_on_user(self) -> None:
        user = INNER_ID if self._config.confinement.namespaces else self._config.user_id
        if user is None:
            return
        if not self._config.confinement.namespaces or self._config.user_id is not None:
            os.setgroups([])
        os.setresgid(user, user, user)
        # Taking on another user drops the effective capabilities unless they are kept on purpose;
        # a new user namespace has no user 0, so nothing is lost there.
        os.setresuid(user, user, user)

    def _die_with_parent(self) -> None:
        if not linux.SUPPORTED:
            return
        linux.prctl(linux.PR_SET_NAME, _name_address())
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        if self._config.confinement.namespaces:
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            return
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)

    def _end(self) -> NoReturn:
        if not self._config.confinement.namespaces:
            kill_tree(os.getpid())
        os._exit(0)

    def _spawn_runner(self, connection: int) -> None:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            runner = socket.socket(fileno=connection)
            runner_main(runner, self._stdout, self._config, self._library_bytes)

    def _spawn_encoder(self, connection: int) -> None:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            encoder = socket.socket(fileno=connection)
            encoder_main(encoder, self._config, self._library_bytes)

    def _handle(self, message: Message, descriptors: list[int]) -> Message:
        if isinstance(message, Attach):
            self._attach(message.paths, descriptors)
        elif isinstance(message, ListChanged):
            return ChangedFiles(_that_fit(self._attached().changed()[: message.limit]))
        elif isinstance(message, KeeperOrder):
            self._do(message, descriptors)
        return Finished()

    def _do(self, order: KeeperOrder, descriptors: list[int]) -> None:
        if order.action is KeeperAction.START_RUNNER:
            self._spawn_runner(*descriptors)
        elif order.action is KeeperAction.START_ENCODER:
            self._spawn_encoder(*descriptors)
        elif order.action is KeeperAction.FREEZE:
            os.kill(-1, signal.SIGSTOP)  # everything in this pid namespace but this process
        elif order.action is KeeperAction.COMMIT_FILES:
            self._attached().commit(order.mapped)
        elif order.action is KeeperAction.RESTORE_FILES:
            self._attached().restore(order.mapped)

    def _attached(self) -> FileKeeper:
        if self._files is None:
            raise OSError("no images were attached yet")
        return self._files

    def _attach(self, paths: Sequence[str], descriptors: list[int]) -> None:
        if self._config.confinement.namespaces:
            for index, (path, descriptor) in enumerate(zip(paths, descriptors, strict=True)):
                rootfs.attach_image(descriptor, path, index)
            os.chdir("/")
            store = rootfs.hide_private()
            rootfs.seal()
        else:
            base = self._config.base
            for index, descriptor in enumerate(descriptors):
                target = f"{base}/inputs/{index}"
                rootfs.copy_descriptor(descriptor, target)
                os.chmod(target, 0o444)
            store = os.open(f"{base}/undo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._files = FileKeeper(self._config.folders.writable, store)
        confine_keeper(self._config, store)


def _that_fit(paths: list[str]) -> tuple[str, ...]:
    """Return the first paths of a list, as many as one message can hold, in Unicode only."""
    found: list[str] = []
    size = 0
    for path in paths:
        size += len(json.dumps(path)) + 2
        if size > _MAX_LISTED_BYTES:
            break
        if clean_text(path, MAX_PATH_CHARS) == path:
            found.append(path)
    return tuple(found)


def _name_address() -> int:
    """Address of the process name shown by ps."""
    import ctypes

    return ctypes.cast(_NAME, ctypes.c_void_p).value or 0


_NAME = __import__("ctypes").create_string_buffer(b"thyme-keeper")
