"""Which backend runs the code: the one factory that every caller uses."""

from __future__ import annotations

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import SettingsError
from swift_thyme.sandbox.interface import SandboxBackend
from swift_thyme.sandbox.pool import SandboxPool
from swift_thyme.sandbox.remote_settings import RemoteSettings
from swift_thyme.sandbox.sandbox_settings import SandboxSettings
from swift_thyme.sandbox.tools import VARIABLE as TOOLS

__all__ = ["open_pool"]


def open_pool(
    settings: SandboxSettings | None = None, remote: RemoteSettings | None = None
) -> SandboxBackend:
    """Return a pool: one of this host, or one of the servers in `THYME_SANDBOX_URL`.

    Nothing starts before it is used.

    Args:
        settings: Limits and layers; None reads them from the environment.
        remote: The servers; None reads them from the environment.

    Raises:
        SettingsError: The environment holds a value that cannot be used.
    """
    remote = RemoteSettings.from_env() if remote is None else remote
    if not remote.urls:
        return SandboxPool(settings)
    if Reader().given(TOOLS) if settings is None else settings.tools:
        raise SettingsError(
            f"{TOOLS} cannot be used beside THYME_SANDBOX_URL: code runs at the servers, so set it "
            "where thyme sandbox-server starts"
        )
    # An HTTP client is nothing that a worker needs, and workers import this package.
    from swift_thyme.sandbox.remote_pool import RemoteSandboxPool

    return RemoteSandboxPool(settings, remote)
