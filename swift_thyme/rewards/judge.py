"""The judge: OpenAI-compatible servers that are asked for verdicts, many at once.

A :class:`Judge` keeps what outlives a step: settings, the health of the servers, and how many steps
have failed in a row. A :class:`JudgeSession` keeps what belongs to one event loop: the connections,
the requests in flight, and the answers of this step.

A question ends in a score or in None. None means that no server gave a verdict in time; it is
counted, and never turned into a number here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import httpx

from swift_thyme.core.errors import JudgeError
from swift_thyme.rewards.connections import open_transport, retry_after_s, send
from swift_thyme.rewards.endpoints import Endpoint
from swift_thyme.rewards.metrics import RewardMetrics
from swift_thyme.rewards.questions import JudgeQuestion
from swift_thyme.rewards.replies import parse_reply
from swift_thyme.rewards.reward_settings import JudgeSettings

__all__ = ["Judge", "JudgeSession"]

logger = logging.getLogger(__name__)

_BUSY = (429, 503)
_REFUSALS = (400, 413, 422)
"""Statuses that are about the request; any other error status is about the server."""
_RETRY_BASE_S = 0.2
_RETRY_MOST_S = 4.0
_BUSY_TRIES = 4
"""Busy replies that cost as much as one failed attempt."""
_POLL_S = 0.1
_PATIENCE_LEAST_S = 0.5
_PATIENCE_FACTOR = 3.0
_HISTORY = 200


class _End(Enum):
    """How one request ended."""

    VERDICT = auto()
    UNREADABLE = auto()
    """A reply without a verdict in it."""
    BUSY = auto()
    REFUSED = auto()
    """The server does not want this request, whatever its health."""
    DOWN = auto()


@dataclass(frozen=True, slots=True)
class _Attempt:
    end: _End
    score: float | None = None


class Judge:
    """The configured servers and what is known about them.

    Args:
        settings: Where they are, and the limits.
        metrics: Counters to add to.
    """

    def __init__(self, settings: JudgeSettings, metrics: RewardMetrics) -> None:
        self.settings = settings
        self.metrics = metrics
        first = settings.first % len(settings.urls)
        urls = settings.urls[first:] + settings.urls[:first]
        self.endpoints = [Endpoint(url, model=settings.model) for url in urls]
        self.failed_steps = 0
        """Steps in a row in which no request got a verdict."""
        self.latencies_s: deque[float] = deque(maxlen=_HISTORY)
        """Duration of the latest successful requests, in seconds."""

    def session(self) -> JudgeSession:
        """Open a session for the running event loop; close it before the loop ends."""
        return JudgeSession(self)

    def settle(self, asked: int, answered: int) -> None:
        """Note the outcome of a step.

        Raises:
            JudgeError: Every question failed, for the last of too many steps in a row.
        """
        if answered:
            self.failed_steps = 0
        elif asked:
            self.failed_steps += 1
            logger.warning(
                "no judge answered any of %d questions (%d such steps in a row): %s",
                asked,
                self.failed_steps,
                self.failures(),
            )
        if self.failed_steps >= self.settings.max_failed_steps:
            raise JudgeError(
                f"no judge answered anything for {self.failed_steps} steps in a row "
                f"(THYME_JUDGE_MAX_FAILED_STEPS): {self.failures()}"
            )

    def failures(self) -> str:
        """Return which server failed last in which way."""
        return "; ".join(f"{endpoint.url}: {endpoint.last_error}" for endpoint in self.endpoints)

    def patience_s(self) -> float:
        """Return after how many seconds a request is slow enough to try another server as well."""
        if not self.latencies_s:
            return self.settings.read_timeout_s / 4
        ordered = sorted(self.latencies_s)
        slow = ordered[int(0.95 * (len(ordered) - 1))]
        return max(_PATIENCE_LEAST_S, _PATIENCE_FACTOR * slow)


class JudgeSession:
    """Questions of one step; belongs to one event loop.

    Args:
        judge: The servers to ask.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._settings = judge.settings
        # One transport per place: httpx looks at every connection of a pool for each request, so
        # one pool for all takes quadratic time. The layers of a client above it (cookies,
        # redirects, authentication) are not needed and cost a fifth of the processor time.
        self._idle: dict[str, list[httpx.AsyncHTTPTransport]] = {
            endpoint.url: [] for endpoint in judge.endpoints
        }
        self._started = time.monotonic()
        self._in_flight: dict[str, int] = {endpoint.url: 0 for endpoint in judge.endpoints}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._model_locks = {endpoint.url: asyncio.Lock() for endpoint in judge.endpoints}
        self._tasks: dict[Hashable, asyncio.Task[float | None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._answered = 0

    async def ask(self, question: JudgeQuestion) -> float | None:
        """Return the judge's score in [0, 1], or None where no server gave one.

        The same question is asked once per session, however often this is called.
        """
        task = self._tasks.get(question.key)
        if task is None:
            self._judge.metrics.count("judge_calls")
            task = self._tasks[question.key] = asyncio.create_task(self._ask(question))
        else:
            self._judge.metrics.count("judge_cached")
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_over())
        # Waiting for it, unlike awaiting it, tells its being given up from ours.
        await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    async def close(self) -> None:
        """Give up what is still asked, close the connections, and settle the step.

        Raises:
            JudgeError: See :meth:`Judge.settle`.
        """
        unfinished = [task for task in self._tasks.values() if not task.done()]
        for task in (*unfinished, self._watch):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        for transports in self._idle.values():
            for transport in transports:
                await transport.aclose()
        if not unfinished:
            self._judge.settle(len(self._tasks), self._answered)

    async def _ask(self, question: JudgeQuestion) -> float | None:
        """Try until there is a verdict, the attempts are used up, or time is."""
        spent, tries = 0.0, 0
        last: Endpoint | None = None
        while spent < self._settings.attempts:
            endpoint = await self._acquire(last)
            if endpoint is None:
                break
            attempt = await self._attempt_with_help(endpoint, question, tries)
            tries += 1
            if attempt.end is _End.VERDICT:
                self._answered += 1
                return attempt.score
            spent += 1 / _BUSY_TRIES if attempt.end is _End.BUSY else 1
            last = endpoint
            if attempt.end is _End.DOWN and not self._another_up(endpoint):
                await self._back_off(tries)
        self._judge.metrics.count("judge_failed")
        return None

    async def _back_off(self, tries: int) -> None:
        longest = min(_RETRY_MOST_S, _RETRY_BASE_S * 2.0**tries)
        await asyncio.sleep(random.uniform(0.0, longest))

    def _another_up(self, endpoint: Endpoint) -> bool:
        return any(other.up and other is not endpoint for other in self._judge.endpoints)

    # -- choosing a server ------------------------------------------------------------------------

    async def _acquire(self, avoid: Endpoint | None) -> Endpoint | None:
        """Wait for a server that may get a request and reserve a place; None in an outage."""
        loop = asyncio.get_running_loop()
        while True:
            now = time.monotonic()
            if self._outage(now):
                return None
            endpoint = self._free(avoid, now)
            if endpoint is not None:
                self._in_flight[endpoint.url] += 1
                return endpoint
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            await turn

    async def _watch_over(self) -> None:
        """Wake the waiting when a rest or all hope is over, and end the step at its deadline."""
        deadline = self._started + self._settings.step_timeout_s
        while (now := time.monotonic()) < deadline:
            if self._outage(now):
                self._wake(len(self._waiting))
            else:
                self._wake(sum(self._places(endpoint, now) for endpoint in self._judge.endpoints))
            await asyncio.sleep(min(_POLL_S, deadline - now))
        for endpoint in self._judge.endpoints:
            if self._in_flight[endpoint.url]:
                endpoint.failed("no reply before the end of the step", now)
        for task in self._tasks.values():
            if not task.done():
                self._judge.metrics.count("judge_failed")
                task.cancel()

    def _free(self, avoid: Endpoint | None, now: float) -> Endpoint | None:
        """Return the least busy server with a free place; ``avoid`` only as a last resort."""
        usable = [endpoint for endpoint in self._judge.endpoints if self._places(endpoint, now)]
        others = [endpoint for endpoint in usable if endpoint is not avoid]
        # A server that is down gets its trial request even while others have places; otherwise it
        # would never be found to be back.
        trials = [endpoint for endpoint in others if not endpoint.up]
        if trials:
            return trials[0]
        candidates = others or usable
        if not others and avoid is not None and self._another_up(avoid):
            return None
        return min(candidates, key=lambda e: self._in_flight[e.url], default=None)

    def _places(self, endpoint: Endpoint, now: float) -> int:
        """Return how many more requests a server may get; one that is down gets one at a time."""
        if endpoint.resting(now):
            return 0
        cap = self._settings.concurrency if endpoint.up else 1
        return max(0, cap - self._in_flight[endpoint.url])

    def _release(self, endpoint: Endpoint) -> None:
        self._in_flight[endpoint.url] -= 1
        self._wake(1)

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    def _outage(self, now: float) -> bool:
        """Tell whether all servers have been down for too long within this step."""
        since = [endpoint.down_since for endpoint in self._judge.endpoints]
        if any(moment is None for moment in since):
            return False
        began = max(self._started, *(moment for moment in since if moment is not None))
        return now - began > self._settings.outage_s

    # -- one request ------------------------------------------------------------------------------

    async def _attempt_with_help(
        self, endpoint: Endpoint, question: JudgeQuestion, tries: int
    ) -> _Attempt:
        """Send a request; when it is slow, send it to another server as well; the first one wins.

        A server that accepts requests and never replies would otherwise hold each of them for the
        whole read timeout.
        """
        if len(self._judge.endpoints) == 1:
            return await self._attempt(endpoint, question, tries)
        started = time.monotonic()
        first = asyncio.create_task(self._attempt(endpoint, question, tries))
        tasks = {first}
        waiting = {first}
        wait_s = self._judge.patience_s()
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                verdicts = [task for task in done if task.result().end is _End.VERDICT]
                if verdicts:
                    if first in waiting:
                        endpoint.failed("slower than the other servers", started)
                    return verdicts[0].result()
                if first in waiting and len(tasks) == 1:
                    helper = self._helper(endpoint)
                    if helper is not None:
                        helping = asyncio.create_task(self._attempt(helper, question, tries))
                        tasks.add(helping)
                        waiting.add(helping)
                wait_s = _POLL_S
            return first.result()
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)

    def _helper(self, slow: Endpoint) -> Endpoint | None:
        """Reserve a place at another server that is up, or return None."""
        now = time.monotonic()
        for other in sorted(self._judge.endpoints, key=lambda e: self._in_flight[e.url]):
            if other is not slow and other.up and self._places(other, now):
                self._in_flight[other.url] += 1
                return other
        return None

    async def _attempt(self, endpoint: Endpoint, question: JudgeQuestion, tries: int) -> _Attempt:
        """Send one request over a reserved place and give the place back."""
        started = time.monotonic()
        idle = self._idle[endpoint.url]
        transport = idle.pop() if idle else open_transport(endpoint.url)
        try:
            response = await self._post(transport, endpoint, question, tries)
            return self._read(endpoint, question, response, started)
        except httpx.ConnectError as e:
            endpoint.failed(f"cannot connect ({e})", started, fatal=True)
        except httpx.ConnectTimeout:
            endpoint.failed("no connection in time", started, fatal=True)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
            endpoint.failed(f"{type(e).__name__} {e}".strip(), started)
        finally:
            idle.append(transport)
            self._release(endpoint)
        return _Attempt(_End.DOWN)

    async def _post(
        self,
        transport: httpx.AsyncHTTPTransport,
        endpoint: Endpoint,
        question: JudgeQuestion,
        tries: int,
    ) -> httpx.Response:
        body: dict[str, Any] = {
            "model": await self._model(transport, endpoint),
            "messages": question.messages(),
            # A repeated question gets another chance to be answered in another way.
            "temperature": 0.0 if tries == 0 else 0.5,
            "max_tokens": self._settings.max_tokens,
        }
        asked_json = endpoint.json_mode
        if asked_json:
            body["response_format"] = {"type": "json_object"}
        self._judge.metrics.count("judge_requests")
        response = await send(self._settings, transport, f"{endpoint.url}/chat/completions", body)
        if asked_json and response.status_code in (*_REFUSALS, 501):
            del body["response_format"]
            self._judge.metrics.count("judge_requests")
            response = await send(
                self._settings, transport, f"{endpoint.url}/chat/completions", body
            )
            if response.is_success:
                endpoint.json_mode = False
        return response

    async def _model(self, transport: httpx.AsyncHTTPTransport, endpoint: Endpoint) -> str:
        """Return the model to ask for; the server's first one where none is configured.

        Raises:
            httpx.HTTPError: The server cannot be reached.
            ValueError: It has no list of models, or an empty one.
        """
        async with self._model_locks[endpoint.url]:
            if endpoint.model is None:
                response = await send(self._settings, transport, f"{endpoint.url}/models")
                if not response.is_success:
                    raise ValueError(f"/models replies with HTTP {response.status_code}")
                try:
                    name = response.json()["data"][0]["id"]
                except (LookupError, TypeError) as e:
                    raise ValueError("/models lists no model") from e
                if not isinstance(name, str):
                    raise ValueError("/models names no model")
                endpoint.model = name
            return endpoint.model

    def _read(
        self, endpoint: Endpoint, question: JudgeQuestion, response: httpx.Response, started: float
    ) -> _Attempt:
        status = response.status_code
        if status in _BUSY and (status == 429 or "retry-after" in response.headers):
            endpoint.busy(retry_after_s(response))
            return _Attempt(_End.BUSY)
        if status in _REFUSALS:
            endpoint.last_error = f"HTTP {status}"
            return _Attempt(_End.REFUSED)
        if not response.is_success:
            if status == 404:
                endpoint.model = self._settings.model
            # 401, 403, 404 and redirects will not go away by asking again soon.
            endpoint.failed(f"HTTP {status}", started, fatal=300 <= status < 500)
            return _Attempt(_End.DOWN)
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            endpoint.failed("a reply that is no chat completion", started)
            return _Attempt(_End.DOWN)
        verdict = parse_reply(content, question.verdict, question.highest)
        was_down = not endpoint.up
        endpoint.succeeded()
        if was_down:
            self._wake(self._settings.concurrency)
        if verdict is None:
            endpoint.last_error = "a reply without a verdict"
            return _Attempt(_End.UNREADABLE)
        seconds = time.monotonic() - started
        self._judge.latencies_s.append(seconds)
        self._judge.metrics.latency(seconds)
        return _Attempt(_End.VERDICT, verdict / question.highest)
