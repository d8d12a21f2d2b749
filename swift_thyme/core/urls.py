"""Base URLs of servers, as environment variables hold them."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from swift_thyme.core.environment import unusable
from swift_thyme.core.errors import SettingsError

__all__ = ["base_url", "base_urls", "unique"]


def base_url(name: str, url: str, token: str, path: str = "") -> str:
    """Return a base URL without trailing slash.

    Args:
        name: The variable that holds it.
        url: As it is written.
        token: The variable that holds the server's token.
        path: Added where the URL has no path at all.

    Raises:
        SettingsError: It is no http(s) URL, or holds more than a base URL does.
    """
    if "@" in url:
        # URLs are logged; also, the password is not repeated here.
        raise SettingsError(f"{name}: no user name or password in a URL; use {token}")
    if not url.isprintable() or " " in url:
        raise unusable(name, url, "a URL has no blanks")
    try:
        split = urlsplit(url)
        split.port  # noqa: B018 - reading it is the check
    except ValueError as error:
        raise unusable(name, url, str(error)) from error
    if split.scheme not in ("http", "https") or not split.hostname:
        raise unusable(name, url)
    if split.query or split.fragment:
        raise unusable(name, url, "a query or a fragment cannot be used")
    return f"{split.scheme}://{split.netloc}{split.path.rstrip('/') or path}"


def base_urls(name: str, text: str, token: str, path: str = "") -> tuple[str, ...]:
    """Return the base URLs of a list with commas, each once; see `base_url`.

    Raises:
        SettingsError: One of them cannot be used, or there is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise unusable(name, text)
    return unique(base_url(name, part, token, path) for part in parts)


def unique(urls: Iterable[str]) -> tuple[str, ...]:
    """Return each URL once, in order."""
    return tuple(dict.fromkeys(urls))
