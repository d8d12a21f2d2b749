"""Where code runs that does not run on this host: one frozen record, read from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swift_thyme.core.environment import Reader
from swift_thyme.core.urls import base_urls

__all__ = ["RemoteSettings"]


@dataclass(frozen=True)
class RemoteSettings:
    """The servers, and how long to wait for them.

    The limits of blocks are those of the servers, but for the time limit, which goes with each
    block.
    """

    urls: tuple[str, ...] = ()
    """`THYME_SANDBOX_URL`: base URLs of the servers; none where this host runs the code."""
    token: str | None = field(default=None, repr=False)
    """`THYME_SANDBOX_TOKEN`: bearer token, sent to every server; None sends none."""
    open_s: float = 60.0
    """`THYME_SANDBOX_OPEN_S`: longest wait for a session, in seconds, all attempts together."""
    grace_s: float = 120.0
    """`THYME_SANDBOX_GRACE_S`: seconds over the limit of a block after which its result is given
    up. A block that waits for others at the server uses them up."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> RemoteSettings:
        """Return the settings that the environment asks for.

        Args:
            environ: Variables to read; None reads `os.environ`.

        Raises:
            SettingsError: A variable has a value that cannot be used; the message names it.
        """
        read = Reader(environ)
        urls = read.text("THYME_SANDBOX_URL")
        return cls(
            urls=base_urls("THYME_SANDBOX_URL", urls, "THYME_SANDBOX_TOKEN") if urls else (),
            token=read.text("THYME_SANDBOX_TOKEN"),
            open_s=read.number("THYME_SANDBOX_OPEN_S"),
            grace_s=read.number("THYME_SANDBOX_GRACE_S"),
        )
