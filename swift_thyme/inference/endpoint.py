"""Any OpenAI-compatible chat endpoint as an engine, over HTTP.

The assistant's turn is continued with ``continue_final_message`` (vLLM, SGLang): the turn so far is
sent as the last message, and the server goes on where it ends. Servers that know no such field
begin a new turn instead, which would be something else than the model was trained on; so this is
found out once, before the first trajectory, and is an error.

What the server does not tell is not known here either: ids stand for pieces of text, not for the
model's tokens, and the sampling hook of this package (greedy code, placeholder guard) applies only
where the server was started with it.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

from swift_thyme.core.codec import EncodedObservation
from swift_thyme.core.errors import EngineError
from swift_thyme.core.images import data_uri
from swift_thyme.core.protocol import ANSWER_CLOSE, CODE_CLOSE, IMAGE_TAG, STOP_STRINGS
from swift_thyme.core.reading import TagScanner
from swift_thyme.core.trajectory import TurnOutcome
from swift_thyme.inference.endpoint_http import (
    PromptTooLong,
    chat_events,
    error_message,
    transport_words,
)
from swift_thyme.inference.engine import Chunk, Sampling
from swift_thyme.inference.task import Task
from swift_thyme.sampling.sampling_settings import SAMPLE_CODE

if TYPE_CHECKING:
    from swift_thyme.inference.model_settings import ModelSettings
    from swift_thyme.sandbox import Observation

__all__ = ["EndpointEngine", "connect", "image_part"]

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 600.0


class _TextCodec:
    """Ids that stand for pieces of text.

    A turn of n tokens becomes n ids, the first of which is its whole text: so tokens are counted
    right although only the server has them.
    """

    image_text = IMAGE_TAG
    _NOTHING, _END = 0, 1

    def __init__(self) -> None:
        self._texts = ["", ""]

    def add(self, text: str) -> int:
        """Return an id for a text."""
        self._texts.append(text)
        return len(self._texts) - 1

    def turn_ids(self, text_ids: Sequence[int], n_tokens: int | None, ended: bool) -> list[int]:
        """Return what completes the ids of a turn to its number of tokens."""
        missing = max(0, (n_tokens or 0) - len(text_ids) - ended)
        return [self._NOTHING] * missing + [self._END] * ended

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids."""
        return "".join(self._texts[token_id] for token_id in token_ids)

    def is_end_of_text(self, token_id: int) -> bool:
        """Tell whether the server said that the text is over."""
        return token_id == self._END

    def prompt_length(self) -> int:
        """Return 0: the server keeps its own limit."""
        return 0

    def encode_text(self, text: str) -> list[int]:
        """Return one id for the text."""
        return [self.add(text)]

    def encode_observation(self, observation: Observation) -> EncodedObservation:
        """Return one id for the text; its length is not known."""
        return EncodedObservation([self.add(observation.text)], 0)


class _Usage(NamedTuple):
    prompt_tokens: int | None
    completion_tokens: int | None


def image_part(data: bytes) -> dict[str, Any]:
    """Return an encoded image as a content part with a data URI."""
    return {"type": "image_url", "image_url": {"url": data_uri(data)}}


def _parts(text: str, images: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return text with ``<image>`` tags as content parts."""
    parts: list[dict[str, Any]] = []
    for index, piece in enumerate(text.split(IMAGE_TAG)):
        if index:
            parts.append(image_part(images[index - 1]))
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


class _Conversation:
    """A trajectory at an endpoint."""

    def __init__(self, engine: EndpointEngine, task: Task) -> None:
        self.codec = _TextCodec()
        self.prompt_tokens: int | None = None
        self.counts_tokens = True
        self._engine = engine
        images = [image.data for image in task.images]
        self._prompt: list[dict[str, Any]] = []
        for message in task.messages:
            content: Any = message["content"]
            if message["role"] == "user":
                n_images = content.count(IMAGE_TAG)
                content, images = _parts(content, images[:n_images]), images[n_images:]
            self._prompt.append({"role": message["role"], "content": content})
        self.opening = engine.response_prefix
        # With a prefix of our own the server continues a turn from the first request on.
        self._turn = _parts(self.opening, [])

    @property
    def length(self) -> int | None:
        """None: only the server knows."""
        return None

    async def sample(
        self, sampling: Sampling, *, seed: int, max_tokens: int | None, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        """Sample the next turn; see :class:`swift_thyme.inference.engine.Conversation`."""
        body: dict[str, Any] = {
            "messages": list(self._prompt),
            # All of them: a server takes what is left out from the model's generation_config.json,
            # where Qwen's have a penalty and a top-k.
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "stop": list(STOP_STRINGS),
            "include_stop_str_in_output": True,
            "seed": seed & 0x7FFFFFFF,
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if self._engine.sample_code and sampling.temperature > 0:
            body["vllm_xargs"] = {SAMPLE_CODE: 1}
        if self._turn:
            body["messages"].append({"role": "assistant", "content": list(self._turn)})
            body.update(continue_final_message=True, add_generation_prompt=False)
        text, text_ids = "", []
        reason, stop_string, usage = "length", None, _Usage(None, None)
        try:
            async for event in self._fitting(body):
                usage = _usage(event) or usage
                for choice in event.get("choices") or []:
                    piece = (choice.get("delta") or {}).get("content") or ""
                    if piece:
                        text += piece
                        text_ids.append(self.codec.add(piece))
                        yield Chunk(text_ids[-1:])
                    reason = choice.get("finish_reason") or reason
                    stop_string = _stop_string(choice) or stop_string
        except PromptTooLong as error:
            if not self._turn:
                raise EngineError(
                    f"{self._engine.url}: the prompt does not fit: {error}"
                ) from error
            yield Chunk([], "length")
            return
        ended = False
        if reason == "stop":
            closing = self._closing(text, stop_string)
            if closing:
                text_ids.append(self.codec.add(closing))
                yield Chunk(text_ids[-1:])
            ended = not closing and not _holds_stop_string(text)
        elif reason != "length":
            raise EngineError(f"{self._engine.url}: a turn ended with {reason!r}")
        if self.prompt_tokens is None:
            self.prompt_tokens = usage.prompt_tokens
        self.counts_tokens &= usage.completion_tokens is not None
        rest = self.codec.turn_ids(text_ids, usage.completion_tokens, ended)
        yield Chunk(rest, "stop" if reason == "stop" else "length")

    async def _fitting(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of a request, without its own token limit where that is too large.

        vLLM refuses a limit that its context has no room for; without one it takes what is left.
        """
        try:
            async for event in self._engine.stream(body):
                yield event
        except PromptTooLong:
            body = {name: value for name, value in body.items() if name != "max_tokens"}
            async for event in self._engine.stream(body):
                yield event

    def _closing(self, text: str, stop_string: str | None) -> str:
        """Return the stop string that the server matched and left out, if any."""
        if _holds_stop_string(text):
            return ""
        if stop_string is not None:
            return stop_string
        # A server that says nothing about the match: an open block is closed by its own tag.
        written = "".join(p["text"] for p in self._turn if p["type"] == "text") + text
        scanner = TagScanner()
        scanner.push(written)
        if scanner.in_code:
            return CODE_CLOSE
        return ANSWER_CLOSE if scanner.in_answer else ""

    def extend(self, token_ids: Sequence[int], outcome: TurnOutcome) -> None:
        """Append a turn and what follows it."""
        sampled = self.codec.decode([*token_ids[: outcome.kept], *outcome.closing_ids])
        observation = self.codec.decode(outcome.observation_ids)
        if sampled:
            self._turn.append({"type": "text", "text": sampled})
        self._turn.extend(_parts(observation, [image.data for image in outcome.images]))
        self._turn = _joined(self._turn)


def _joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbouring texts, which a chat template could otherwise separate."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _usage(event: dict[str, Any]) -> _Usage | None:
    usage = event.get("usage")
    if not isinstance(usage, dict):
        return None
    return _Usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _holds_stop_string(text: str) -> bool:
    """Tell whether a stop string ended a turn; a server may leave what its token carried more."""
    return any(string in text for string in STOP_STRINGS)


def _stop_string(choice: dict[str, Any]) -> str | None:
    """Return the stop string that vLLM (``stop_reason``) or SGLang (``matched_stop``) names."""
    for name in ("stop_reason", "matched_stop"):
        if choice.get(name) in STOP_STRINGS:
            return str(choice[name])
    return None


class EndpointEngine:
    """Generates at an OpenAI-compatible server; made by :func:`connect`.

    Args:
        url: Base URL, ending in the API version.
        client: The HTTP client; closed with the engine.
        model_name: Name that the server knows.
        max_images: Most images of one trajectory.

    Attributes:
        open: The conversations that somebody still holds.
        failed_s: When a request failed last, on the monotonic clock.
    """

    max_total_tokens: int | None = None
    response_prefix = ""
    """Text that each assistant's turn begins with."""
    sample_code = False
    """Whether code is to be sampled like text where the server has the sampling hook."""

    def __init__(
        self, url: str, client: httpx.AsyncClient, *, model_name: str, max_images: int
    ) -> None:
        self.url = url
        self.model_name = model_name
        self.max_images = max_images
        self.open: weakref.WeakSet[_Conversation] = weakref.WeakSet()
        self.failed_s = -math.inf
        self._client = client

    async def begin(self, task: Task) -> _Conversation:
        """Begin a conversation; nothing is sent before its first turn."""
        conversation = _Conversation(self, task)
        self.open.add(conversation)
        return conversation

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._client.aclose()

    async def stream(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Send a chat request and yield its events; what fails before the first is tried again.

        Raises:
            EngineError: The server cannot be reached, refuses, or breaks off.
            PromptTooLong: The prompt does not fit.
        """
        body = {
            "model": self.model_name,
            "stream": True,
            "stream_options": {"include_usage": True},
            **body,
        }
        try:
            async with aclosing(chat_events(self._client, self.url, body)) as events:
                async for event in events:
                    yield event
        except EngineError:
            self.failed_s = time.monotonic()
            raise

    async def probe(self) -> None:
        """Find out whether the server continues an assistant's turn.

        Raises:
            EngineError: It does not, or cannot be reached.
        """
        turn = [{"type": "text", "text": "<think>One, two, three,"}]
        messages = [
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": turn},
        ]
        lengths = []
        for flags in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
            body = {"messages": messages, "max_tokens": 1, "temperature": 0, **flags}
            usage = None
            async for event in self.stream(body):
                usage = _usage(event) or usage
            if usage is None or usage.prompt_tokens is None:
                raise EngineError(
                    f"{self.url}: the server reports no token usage, so it cannot be told whether "
                    "it continues an assistant's turn (continue_final_message)"
                )
            lengths.append(usage.prompt_tokens)
        if lengths[1] >= lengths[0]:
            raise EngineError(
                f"{self.url}: the server does not continue an assistant's turn "
                "(continue_final_message), so code results cannot be given back; vLLM's and "
                "SGLang's servers do, or use --engine vllm"
            )


async def connect(
    settings: ModelSettings, transport: httpx.AsyncBaseTransport | None = None
) -> EndpointEngine:
    """Connect to an endpoint: find its model, and whether it can be used.

    Args:
        settings: Where it is.
        transport: Stands in for the network.

    Raises:
        EngineError: It cannot be reached, refuses, or does not continue a turn.
    """
    assert settings.endpoint is not None
    url = settings.endpoint.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise EngineError(f"--endpoint {url}: not an http(s) URL")
    client = httpx.AsyncClient(
        headers={"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {},
        timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=settings.concurrency + 8),
        transport=transport,
    )
    try:
        name = settings.model or await _first_model(client, url)
        engine = EndpointEngine(url, client, model_name=name, max_images=settings.max_images)
        engine.response_prefix = settings.response_prefix or ""
        engine.sample_code = not settings.sampling.adaptive
        await engine.probe()
    except BaseException:
        await client.aclose()
        raise
    return engine


async def _first_model(client: httpx.AsyncClient, url: str) -> str:
    try:
        response = await client.get(f"{url}/models")
    except httpx.TransportError as error:
        raise EngineError(f"{url} cannot be reached: {transport_words(error)}") from error
    if response.status_code != 200:
        raise EngineError(
            f"{url}/models: HTTP {response.status_code}: {error_message(response.text)}"
        )
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineError(f"{url}/models names no model: {response.text[:200]!r}") from error
