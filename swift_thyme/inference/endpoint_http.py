"""Chat requests to an OpenAI-compatible server: tries, streamed events, and words for errors."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from swift_thyme.core.errors import EngineError

__all__ = ["PromptTooLong", "chat_events", "error_message", "transport_words"]

_TRIES = 5
_BACK_OFF_S = 0.5
_LONGEST_WAIT_S = 30.0
_TOO_LONG = ("context length", "max_model_len", "maximum context", "too long")


class PromptTooLong(Exception):
    """The server's context is full."""


async def chat_events(
    client: httpx.AsyncClient, url: str, body: dict[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    """Send a streamed chat request and yield its events.

    What fails before the first event is tried again.

    Args:
        client: The HTTP client.
        url: Base URL, ending in the API version.
        body: The request.

    Raises:
        EngineError: The server cannot be reached, refuses, or breaks off.
        PromptTooLong: The prompt does not fit.
    """
    for attempt in range(1, _TRIES + 1):
        begun = False
        try:
            async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
                if response.status_code == 200:
                    async for event in _events(response):
                        begun = True
                        yield event
                    return
                text = (await response.aread()).decode("utf-8", "replace")
                status = response.status_code
                if status == 400 and any(words in text for words in _TOO_LONG):
                    raise PromptTooLong(error_message(text))
                if status not in (408, 409, 429) and status < 500:
                    raise EngineError(f"{url}: HTTP {status}: {error_message(text)}")
                problem = f"HTTP {status}: {error_message(text)}"
                wait_s = _retry_after_s(response)
        except httpx.TransportError as error:
            problem, wait_s = transport_words(error), None
        if begun:
            raise EngineError(f"{url}: the server broke off a reply: {problem}")
        if attempt == _TRIES:
            raise EngineError(f"{url}: no reply after {_TRIES} tries: {problem}")
        longest = min(_LONGEST_WAIT_S, _BACK_OFF_S * 2.0**attempt)
        await asyncio.sleep(wait_s if wait_s is not None else random.uniform(0, longest))


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineError(f"{response.url}: not JSON in a stream: {data[:200]!r}") from error
        if isinstance(event, dict) and event.get("error"):
            raise EngineError(f"{response.url}: {error_message(json.dumps(event))}")
        if isinstance(event, dict):
            yield event


def _retry_after_s(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isdigit() else None


def error_message(text: str) -> str:
    """Return the message of an error reply, shortened to one line."""
    try:
        value = json.loads(text)
        found = value.get("error", value) if isinstance(value, dict) else value
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except ValueError:
        pass
    return " ".join(text.split())[:300]


def transport_words(error: httpx.TransportError) -> str:
    """Return kind and words of a failed connection."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
