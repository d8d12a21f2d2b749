"""An OpenAI-compatible server in this process whose model is a script, and images for it.

Only the network is faked: requests and replies are those of vLLM's server, as seen with 0.23.
"""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from swift_thyme.inference.endpoint import EndpointEngine, connect
from swift_thyme.inference.model import ModelSettings, _checkpoint, _open_transformers
from swift_thyme.inference.prompt_images import PromptImage, read_image

URL = "http://server.test/v1"


def local_engine(settings: ModelSettings) -> Any:
    """Return the transformers engine of a model in a folder."""
    return _open_transformers(settings, _checkpoint(settings, Path(str(settings.model))))


def image_bytes(size: tuple[int, int] = (64, 48), kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7 if mode == "P" else None).save(buffer, format=kind)
    return buffer.getvalue()


def prompt_image(size: tuple[int, int] = (64, 48)) -> PromptImage:
    return read_image(image_bytes(size))


def sse(events: Sequence[Any]) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def turn_events(text: str, *, reason: str = "stop", tokens: int | None = None) -> list[Any]:
    """Return the events of one turn, in two pieces."""
    half = len(text) // 2
    events: list[Any] = [
        {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
        for piece in (text[:half], text[half:])
    ]
    events.append({"choices": [{"delta": {}, "finish_reason": reason, "stop_reason": None}]})
    usage = {"prompt_tokens": 50, "completion_tokens": len(text) if tokens is None else tokens}
    return [*events, {"choices": [], "usage": usage}]


class ScriptedServer:
    """Answers the n-th request for a turn with the n-th text.

    Args:
        turns: Texts that the model writes, stop strings included.
        continues: Whether it knows ``continue_final_message``.
    """

    def __init__(
        self,
        turns: Sequence[str | Callable[[dict[str, Any]], httpx.Response]],
        *,
        continues: bool = True,
    ) -> None:
        self.turns = list(turns)
        self.continues = continues
        self.bodies: list[dict[str, Any]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "scripted"}]})
        body = json.loads(request.content)
        if body.get("max_tokens") == 1:
            length = 10 if body.get("continue_final_message") and self.continues else 15
            usage = {"prompt_tokens": length, "completion_tokens": 1}
            return httpx.Response(200, content=sse([{"choices": [], "usage": usage}]))
        self.bodies.append(body)
        turn = self.turns.pop(0)
        if callable(turn):
            return turn(body)
        return httpx.Response(200, content=sse(turn_events(turn)))

    async def engine(self, **settings: Any) -> EndpointEngine:
        return await connect(
            ModelSettings(endpoint=URL, **settings), httpx.MockTransport(self.handle)
        )
