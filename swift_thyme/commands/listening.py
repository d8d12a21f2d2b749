"""Ports that commands listen on."""

from __future__ import annotations

import ipaddress
import socket

from swift_thyme.core.errors import SettingsError

__all__ = ["SHUTDOWN_GRACE_S", "is_loopback", "listen"]

SHUTDOWN_GRACE_S = 10
"""Seconds that running requests have after a request to end."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        SettingsError: It cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(f"--host {host} --port {port}: {error}") from error
    # Connections take it over. asyncio sets it for sockets of its own alone; without it each reply
    # on a kept connection waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this host alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
