"""What a worker hands to the processes of a session when it makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from swift_thyme.sandbox.rootfs import PrivateFolders
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.wire import any_text, whole

__all__ = ["MAX_PATH_CHARS", "Confinement", "ImageInfo", "SessionConfig"]


@dataclass(frozen=True)
class Confinement:
    """The layers that this worker applies; see `layers.probe_layers` for their names.

    Attributes:
        namespaces: Whether sessions get their own user, mount, pid, network, ipc and uts
            namespaces.
        change_user: Whether sessions run under a user id that owns nothing on the host; only
            root can do that.
        seccomp: Whether the system call filter is installed.
        landlock_abi: Landlock version in use, 0 for none.
    """

    namespaces: bool
    change_user: bool
    seccomp: bool
    landlock_abi: int


MAX_PATH_CHARS = 4096
_PATH = any_text(MAX_PATH_CHARS)
_SIDE = whole(0, 1 << 31)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An input image as the runner needs to know it."""

    path: Annotated[str, _PATH]
    """Path that the prompt names."""
    real: Annotated[str, _PATH]
    """Path at which it really is; the same where mount namespaces are on."""
    width: Annotated[int, _SIDE]
    """Pixels, 0 where it could not be read."""
    height: Annotated[int, _SIDE]
    """Pixels, 0 where it could not be read."""


@dataclass(frozen=True)
class SessionConfig:
    """One session's surroundings.

    Attributes:
        settings: The limits.
        confinement: The layers.
        sources: What of the host may be read.
        folders: Where the private folders are for processes of the session.
        base: Host folder that holds them, or None where they live in the mount namespace.
        user_id: User id that the session's processes take on, or None to keep the current one.
        disk_bytes: Bytes that its private folders can hold together.
    """

    settings: SandboxSettings
    confinement: Confinement
    sources: tuple[str, ...]
    folders: PrivateFolders
    base: str | None
    user_id: int | None
    disk_bytes: int
