"""Connections to the judge's servers: TLS, proxies, and how long a busy one is left alone."""

from __future__ import annotations

import random
import ssl
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from swift_thyme.rewards.reward_settings import JudgeSettings

__all__ = ["open_transport", "retry_after_s", "send"]

_BUSY_MOST_S = 8.0


@cache
def _tls() -> ssl.SSLContext:
    """Return the TLS settings; loading the certificates takes longer than many a request."""
    return httpx.create_ssl_context()


def open_transport(url: str) -> httpx.AsyncHTTPTransport:
    """Return a connection to a server, through the proxy that the environment names for it."""
    split = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(split.scheme) or proxies.get("all")
    if proxy and split.hostname and proxy_bypass(split.hostname):
        proxy = None
    return httpx.AsyncHTTPTransport(verify=_tls(), proxy=proxy or None)


async def send(
    settings: JudgeSettings,
    transport: httpx.AsyncHTTPTransport,
    url: str,
    body: dict[str, Any] | None = None,
) -> httpx.Response:
    """Get a URL, or post JSON to it, and read the whole response.

    Raises:
        httpx.HTTPError: The server cannot be reached, or is too slow.
    """
    key = settings.api_key
    timeout = httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    request = httpx.Request(
        "GET" if body is None else "POST",
        url,
        headers={"Authorization": f"Bearer {key}"} if key else None,
        json=body,
        extensions={"timeout": timeout.as_dict()},
    )
    response = await transport.handle_async_request(request)
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


def retry_after_s(response: httpx.Response) -> float:
    """Return how long a busy server wants to be left alone (in seconds, within reason)."""
    text = response.headers.get("retry-after", "")
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = 0.5
    return min(_BUSY_MOST_S, max(0.05, wait_s)) * random.uniform(1.0, 1.2)
