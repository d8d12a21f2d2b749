"""Makes the sessions of a worker, and keeps some ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from swift_thyme.core.errors import DataError
from swift_thyme.sandbox import layers, linux, rootfs
from swift_thyme.sandbox.accelerations import Acceleration
from swift_thyme.sandbox.confine import measure_address_space, prepare_filters
from swift_thyme.sandbox.encoder import prepare_encoders
from swift_thyme.sandbox.keeper_client import SessionLost
from swift_thyme.sandbox.memory_group import MemoryGroups
from swift_thyme.sandbox.messages import SourceImage
from swift_thyme.sandbox.runner import rehearse
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.session import Session
from swift_thyme.sandbox.session_config import Confinement, ImageInfo, SessionConfig
from swift_thyme.sandbox.session_folders import (
    WorkerFolder,
    make_session_folders,
    private_folders,
    remove_stale_folders,
    room_for_a_session,
)
from swift_thyme.sandbox.template_client import Templates

__all__ = ["SessionFactory"]

_SPARE_DELAY_S = 0.002


class SessionFactory:
    """Makes sessions by having a template forked, which is made by `start`.

    Args:
        settings: The limits.
        confinement: The layers.
        groups: Where the memory of sessions is counted.
    """

    def __init__(
        self, settings: SandboxSettings, confinement: Confinement, groups: MemoryGroups
    ) -> None:
        self._groups = groups
        self._settings = settings
        self._confinement = confinement
        self._library_bytes = measure_address_space()
        remove_stale_folders()
        self._folder = None if confinement.namespaces else WorkerFolder()
        self._serial = 0
        self._wanted = settings.spares if settings.uses(Acceleration.SPARES) else 0
        self._spares: list[Session] = []
        self._filling: asyncio.Task[None] | None = None
        self._templates: Templates | None = None
        prepare_filters(confinement)
        prepare_encoders()

    def rehearse(self) -> None:
        """Do once here what every session does, before there is one."""
        place = (rootfs.MOUNTED, None, None, 0)
        rehearse(SessionConfig(self._settings, self._confinement, (), *place))

    def start(self) -> None:
        """Make the template; before this process sees a request."""
        self._templates = Templates(self._settings, self._confinement, self._library_bytes)

    async def open(self, images: tuple[SourceImage, ...]) -> Session:
        """Return a session with its input images.

        Raises:
            SessionLost: It cannot be made, or the file of an image cannot be opened.
            OSError: An image cannot be read.
            ValueError: An image cannot be placed.
        """
        session = self._spare() or await self._make()
        descriptors: list[int] = []
        opened: list[tuple[ImageInfo, int]] = []
        try:
            for index, image in enumerate(images):
                descriptor, width, height = _upright(_open_source(image))
                descriptors.append(descriptor)
                real = session.real_path(image.path, index)
                opened.append((ImageInfo(image.path, real, width, height), descriptor))
            await session.attach(opened)
        except BaseException:
            session.close()
            session.remove_folder()
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return session

    def _spare(self) -> Session | None:
        """Take a session that is ready, unless something ended one of its processes meanwhile."""
        while self._spares:
            session = self._spares.pop()
            if session.is_whole:
                return session
            session.close()
            session.remove_folder()
        return None

    def fill_spares(self) -> None:
        """Begin to make the sessions that are kept ready."""
        idle = self._filling is None or self._filling.done()
        if idle and len(self._spares) < self._wanted:
            self._filling = asyncio.ensure_future(self._add_spares())

    async def close(self) -> None:
        """End the sessions that are kept ready, and the templates."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        for session in self._spares:
            session.close()
        if self._templates is not None:
            self._templates.close()

    def tidy(self) -> None:
        """Remove what is left on the host, once all processes are dead."""
        self._groups.close()
        if self._folder is not None:
            self._folder.remove()

    async def _add_spares(self) -> None:
        assert self._templates is not None
        try:
            while len(self._spares) < self._wanted:
                await asyncio.sleep(_SPARE_DELAY_S)  # whatever is waiting goes first
                self._spares.append(await self._make())
            await self._templates.fill_reserve()
        except (SessionLost, OSError) as error:
            # The next request that needs a session makes one itself, or fails with the reason.
            sys.stderr.write(f"a spare session could not be made: {error}\n")

    async def _make(self) -> Session:
        assert self._templates is not None
        self._serial += 1
        user_id = layers.pick_user_id() if self._confinement.change_user else None
        base = None
        disk_bytes = self._settings.disk_mb << 20
        if self._folder is not None:
            disk_bytes = min(disk_bytes, room_for_a_session(self._folder.path))
            base = make_session_folders(self._folder.path, self._serial, user_id)
        config = SessionConfig(
            self._settings,
            self._confinement,
            (),
            rootfs.MOUNTED if base is None else private_folders(base),
            base,
            user_id,
            disk_bytes,
        )
        session = Session(config, self._groups)
        try:
            await session.start(self._templates)
        except BaseException:
            session.close()
            session.remove_folder()
            raise
        return session


def _open_source(image: SourceImage) -> int:
    if image.data is None:
        try:
            return os.open(image.file or "", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SessionLost(f"an image cannot be read: {error}") from error
    return _memory_file(image.data)


def _memory_file(data: bytes) -> int:
    descriptor = linux.nameless_file("image")
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
