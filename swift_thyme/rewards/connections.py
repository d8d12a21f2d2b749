"""Connections to the judge's servers: TLS, proxies, and how long a busy one is left alone."""

from __future__ import annotations

import random
import ssl
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

__all__ = ["open_transport", "retry_after_s"]

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


def retry_after_s(response: httpx.Response) -> float:
    """Return how long a busy server wants to be left alone (in seconds, within reason)."""
    text = response.headers.get("retry-after", "")
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = 0.5
    return min(_BUSY_MOST_S, max(0.05, wait_s)) * random.uniform(1.0, 1.2)
