"""The model class that VLMEvalKit (``ms-vlmeval`` on PyPI) can call; it asks ``thyme serve``.

Importing this module needs VLMEvalKit. ``docs/evaluation.md`` shows how to register the class.
"""

from __future__ import annotations

from typing import Any

import httpx
from vlmeval.api.base import BaseAPI

from swift_thyme.core.environment import Reader
from swift_thyme.core.errors import EngineError
from swift_thyme.inference.endpoint import image_part

__all__ = ["ThymeAPI"]

NO_ANSWER = "Z"
"""What a trajectory without an answer becomes: VLMEvalKit's letter for none of the options. An
empty answer would be taken for a failure and asked again."""


class ThymeAPI(BaseAPI):  # type: ignore[misc]  # VLMEvalKit has no type information
    """A Thyme model behind ``thyme serve``.

    Args:
        url: Base URL of the server.
        key: Bearer token; None takes ``THYME_API_KEY``.
        question_only: Whether the options of a multiple-choice question are left out of the
            prompt, as ``thyme eval --prompt question`` does.
        timeout_s: Longest wait for an answer, in seconds.
        kwargs: Arguments of VLMEvalKit's ``BaseAPI`` (``retry``, ``wait``, ``verbose``), and
            fields of each request (``temperature``, ``max_tokens``).
    """

    is_api = True
    allowed_types = ("text", "image")

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000/v1",
        *,
        key: str | None = None,
        question_only: bool = False,
        timeout_s: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._question_only = question_only
        key = key or Reader().text("THYME_API_KEY")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s

    def use_custom_prompt(self, dataset: str) -> bool:
        """Tell VLMEvalKit whether :meth:`build_prompt` makes the prompt."""
        return self._question_only

    def build_prompt(self, line: Any, dataset: str) -> list[dict[str, str]]:
        """Return the images and the question of a row."""
        paths = self.dump_image(line, dataset)
        paths = [paths] if isinstance(paths, str) else paths
        images = [{"type": "image", "value": path} for path in paths]
        return [*images, {"type": "text", "value": str(line["question"])}]

    def generate_inner(self, inputs: list[dict[str, str]], **kwargs: Any) -> tuple[int, str, str]:
        """Return (0, answer, log), or (-1, VLMEvalKit's failure text, reason)."""
        kwargs.pop("dataset", None)
        content: list[dict[str, Any]] = []
        for part in inputs:
            if part["type"] == "image":
                with open(part["value"], "rb") as file:
                    content.append(image_part(file.read()))
            else:
                content.append({"type": "text", "text": part["value"].strip()})
        messages = [{"role": "user", "content": content}]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        body = {"model": "thyme", "messages": messages, **kwargs}
        try:
            response = httpx.post(
                f"{self._url}/chat/completions",
                json=body,
                headers=self._headers,
                timeout=self._timeout_s,
            )
        except httpx.TransportError as error:
            return -1, self.fail_msg, f"{self._url}: {error!r}"
        if response.status_code in (400, 401, 404, 413):
            # Asking again would not change these.
            raise EngineError(f"{self._url}: {response.text[:300]}")
        if response.status_code != 200:
            return -1, self.fail_msg, response.text[:300]
        answer = response.json()["choices"][0]["message"]["content"]
        return 0, answer or NO_ANSWER, "ok"
