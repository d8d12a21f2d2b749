"""From a chat request to a task; whatever cannot be done is an error that names the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swift_thyme.core.errors import DataError
from swift_thyme.core.images import base64_bytes
from swift_thyme.core.pictures import ImageLimits
from swift_thyme.inference.engine import Sampling
from swift_thyme.inference.loop import LoopSettings
from swift_thyme.inference.prompt_images import PromptImage, read_image
from swift_thyme.inference.task import Task, make_task, plain_text
from swift_thyme.serve.request_keys import refusal

__all__ = ["ChatRequest", "RequestError", "parse_request"]


class RequestError(DataError):
    """A request cannot be served; the message is for its sender."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request that can be served."""

    task: Task
    loop: LoopSettings
    stream: bool
    include_usage: bool
    whole_completion: bool
    """Whether ``content`` holds the model's whole turn instead of its answer."""
    with_images: bool
    """Whether returned images are in the reply as data URIs."""


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str
    images: tuple[PromptImage, ...] = ()


def parse_request(
    body: Any,
    *,
    request_id: str,
    system: str,
    loop: LoopSettings,
    max_images: int,
    limits: ImageLimits,
) -> ChatRequest:
    """Return what a body asks for. Decodes its images, so call it off the event loop.

    Args:
        body: The parsed JSON.
        request_id: Names the trajectory.
        system: System prompt where the request has none.
        loop: What holds where the request says nothing; its limits are also the largest allowed.
        max_images: Most images.
        limits: What an image may be.

    Raises:
        RequestError: Something in it cannot be served.
    """
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    refused = refusal(body)
    if refused is not None:
        raise RequestError(refused[1], refused[0])
    if body.get("n") not in (None, 1):
        raise RequestError("only n = 1 is supported", "n")
    messages = _messages(body.get("messages"), max_images, limits)
    extra = body.get("thyme") or {}
    if not isinstance(extra, dict):
        raise RequestError("must be an object", "thyme")
    given_system = "\n".join(m.text for m in messages if m.role == "system")
    stream_options = body.get("stream_options") or {}
    # With a seed equal requests draw alike; without one each draws anew.
    task_id = request_id if body.get("seed") is None else "seeded"
    return ChatRequest(
        task=_task([m for m in messages if m.role != "system"], given_system or system, task_id),
        loop=_loop(body, extra, loop),
        stream=_flag(body, "stream"),
        include_usage=isinstance(stream_options, dict)
        and bool(stream_options.get("include_usage")),
        whole_completion=_choice(extra, "content", ("answer", "completion")) == "completion",
        with_images=_flag(extra, "images"),
    )


def _task(messages: list[_Message], system: str, request_id: str) -> Task:
    """Return the task for the last message, the others being its history."""
    if not messages or messages[-1].role != "user":
        raise RequestError("the last message must be the user's", "messages")
    history: list[Mapping[str, str]] = []
    earlier: list[PromptImage] = []
    for message in messages[:-1]:
        content = plain_text(message.text)
        if message.role == "user":
            content = make_task(message.text, message.images).prompt
        history.append({"role": message.role, "content": content})
        earlier.extend(message.images)
    last = messages[-1]
    task = make_task(last.text, last.images, system=system, task_id=request_id)
    return dataclasses.replace(task, images=(*earlier, *task.images), history=tuple(history))


def _messages(value: Any, max_images: int, limits: ImageLimits) -> list[_Message]:
    if not isinstance(value, list) or not value:
        raise RequestError("must be a non-empty list", "messages")
    messages: list[_Message] = []
    n_images = 0
    for place, message in enumerate(value):
        param = f"messages[{place}]"
        if not isinstance(message, dict):
            raise RequestError("must be an object", param)
        role = message.get("role")
        role = "system" if role == "developer" else role
        if role not in ("system", "user", "assistant"):
            raise RequestError(f"role {role!r} is not supported", f"{param}.role")
        for name in ("tool_calls", "function_call"):
            if message.get(name):
                raise RequestError(
                    "tools of the client are not supported: the model runs its own code",
                    f"{param}.{name}",
                )
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise RequestError("must be text or a list of parts", f"{param}.content")
        texts: list[str] = []
        images: list[PromptImage] = []
        for number, part in enumerate(parts):
            where = f"{param}.content[{number}]"
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind == "image_url" and role == "user":
                if n_images >= max_images:
                    raise RequestError(f"at most {max_images} images are taken", where)
                images.append(_image(part.get("image_url"), n_images, where, limits))
                n_images += 1
            else:
                raise RequestError(
                    f"a part of type {kind!r} is not supported in a message of role {role}", where
                )
        messages.append(_Message(role, "\n".join(texts), tuple(images)))
    return messages


def _image(value: Any, index: int, where: str, limits: ImageLimits) -> PromptImage:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url.startswith("data:"):
        raise RequestError(
            "images are taken as data URIs (data:image/jpeg;base64,...) only; addresses and files "
            "are not read",
            where,
        )
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise RequestError("the data URI is not base64", where)
    if len(data) > limits.max_bytes * 4 // 3 + 4:
        raise RequestError(f"the image has more than {limits.max_bytes} bytes", where)
    try:
        return read_image(base64_bytes(data), index, limits)
    except DataError as error:
        raise RequestError(str(error), where) from error


def _loop(body: Mapping[str, Any], extra: Mapping[str, Any], base: LoopSettings) -> LoopSettings:
    sampling = base.sampling
    try:
        sampling = Sampling(
            temperature=_number(body, "temperature", sampling.temperature),
            top_p=_number(body, "top_p", sampling.top_p),
            top_k=max(0, _whole(body, "top_k", sampling.top_k, least=-1)),
            repetition_penalty=_number(body, "repetition_penalty", sampling.repetition_penalty),
            seed=_whole(body, "seed", sampling.seed, least=-(2**63)),
        )
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(str(error)) from error
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    return dataclasses.replace(
        base,
        sampling=sampling,
        # Evaluators ask for more than any model can say; the server's limit holds.
        max_tokens=min(base.max_tokens, _whole(body, name, base.max_tokens, least=1)),
        max_turns=min(base.max_turns, _whole(extra, "max_turns", base.max_turns, least=1)),
        tools=base.tools and _flag(extra, "tools", True),
    )


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError("must be a number", name)
    return float(value)


def _whole(values: Mapping[str, Any], name: str, default: int, least: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RequestError(f"must be a whole number of at least {least}", name)
    return value


def _flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError("must be true or false", name)
    return value


def _choice(values: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = values.get(name, allowed[0])
    if value not in allowed:
        raise RequestError(f"must be one of {', '.join(allowed)}", name)
    return str(value)
