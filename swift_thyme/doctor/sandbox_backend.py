"""Where code runs, and whether the servers answer that are to run it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator

import swift_thyme
from swift_thyme.core.errors import SettingsError
from swift_thyme.core.finding import Finding, State
from swift_thyme.sandbox.remote_settings import RemoteSettings

__all__ = ["is_remote", "sandbox_backend"]

DEADLINE_S = 10.0
"""Longest wait for the servers, in seconds."""


def is_remote() -> bool:
    """Tell whether code runs elsewhere, as far as the environment can be read."""
    try:
        return bool(RemoteSettings.from_env().urls)
    except SettingsError:
        return False


def sandbox_backend(deadline_s: float) -> Iterator[Finding]:
    """Say which backend is in use, and ask each of its servers for its state."""
    subject = "sandbox: backend"
    try:
        settings = RemoteSettings.from_env()
    except SettingsError as error:
        yield Finding(subject, State.BROKEN, str(error), "correct the variable")
        return
    if not settings.urls:
        yield Finding(subject, State.OK, "local: code runs in processes of this host")
        return
    text = f"remote: {len(settings.urls)} of THYME_SANDBOX_URL"
    yield Finding(subject, State.OK, text)
    yield from asyncio.run(_ask_all(settings, min(deadline_s, DEADLINE_S)))


async def _ask_all(settings: RemoteSettings, deadline_s: float) -> list[Finding]:
    ask = functools.partial(_ask, settings=settings, deadline_s=deadline_s)
    return list(await asyncio.gather(*map(ask, settings.urls)))


async def _ask(url: str, settings: RemoteSettings, deadline_s: float) -> Finding:
    from swift_thyme.sandbox.remote_server import Fault, HttpServer, ServerFault

    subject = f"sandbox: {url}"
    server = HttpServer(url, settings)
    start = time.monotonic()
    try:
        health = await asyncio.wait_for(server.health(), deadline_s)
    except asyncio.TimeoutError:
        text = f"no answer within {deadline_s:g} s"
        return Finding(subject, State.BROKEN, text, "restart the server, or correct the address")
    except ServerFault as fault:
        advice = "start thyme sandbox-server there, or correct the address"
        if fault.fault is Fault.REFUSED:
            advice = "set THYME_SANDBOX_TOKEN as at the server, or correct the address"
        return Finding(subject, State.BROKEN, str(fault), advice)
    finally:
        await server.leave()
    milliseconds = (time.monotonic() - start) * 1000
    text = f"answers, {milliseconds:.0f} ms, {health.sessions} of {health.most_sessions} sessions"
    here = swift_thyme.__version__
    if health.version != here:
        advice = f"install swift_thyme {here} there: messages of other versions are refused"
        return Finding(subject, State.LOOK, f"{text}, version {health.version}", advice)
    return Finding(subject, State.OK, text)
