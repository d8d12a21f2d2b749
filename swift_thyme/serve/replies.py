"""Replies in OpenAI's form, whole or piece by piece, with the trajectory in a field of its own.

``content`` is the answer and ``reasoning_content`` everything else that the assistant's turn holds,
so a client that knows nothing of tools sees a model that thinks and answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from swift_thyme.core.execution import ReturnedImage
from swift_thyme.core.images import data_uri
from swift_thyme.core.protocol import ANSWER_CLOSE, ANSWER_OPEN
from swift_thyme.core.reading import Piece, SpanKind, TagScanner
from swift_thyme.core.segment import Segment, SegmentKind
from swift_thyme.core.summary import EndReason
from swift_thyme.inference.loop import FinishedTrajectory, ObservationEvent, TextEvent
from swift_thyme.serve.requests import ChatRequest

__all__ = ["AnswerSplitter", "ReplyWriter", "error_body", "finish_reason"]


class Delta(NamedTuple):
    """New text of a reply."""

    reasoning: str
    content: str


class AnswerSplitter:
    """Tells the answer from the rest while text comes in pieces of any size."""

    def __init__(self) -> None:
        self._scanner = TagScanner()
        self._content_begun = False
        self._space = ""

    def push(self, text: str) -> Delta:
        """Take what the model wrote and return what can be said of it."""
        return self._delta(self._scanner.push(text))

    def observe(self, text: str) -> Delta:
        """Take what the sandbox said; whatever it holds is no answer."""
        return Delta(self._delta(self._scanner.finish()).reasoning + text, "")

    def finish(self) -> Delta:
        """Return what was held back."""
        return self._delta(self._scanner.finish())

    def _delta(self, pieces: Sequence[Piece]) -> Delta:
        reasoning, content = "", ""
        for piece in pieces:
            if piece.tag in (ANSWER_OPEN, ANSWER_CLOSE) and not piece.stray:
                continue
            if piece.kind is SpanKind.ANSWER:
                content += self._answer_text(piece.text)
            else:
                reasoning += piece.text
        return Delta(reasoning, content)

    def _answer_text(self, text: str) -> str:
        # White space at either end of an answer is no part of it.
        kept = text.rstrip()
        if not kept:
            self._space += text
            return ""
        text, space = self._space + kept, text[len(kept) :]
        self._space = space
        begun, self._content_begun = self._content_begun, True
        return text if begun else text.lstrip()


def finish_reason(finished: FinishedTrajectory) -> str:
    """Return OpenAI's word for why a trajectory is over."""
    whole = (EndReason.ANSWER, EndReason.END_OF_TEXT)
    return "stop" if finished.summary.end_reason in whole else "length"


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> Any:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ReplyWriter:
    """Makes the reply to one request.

    Args:
        request: What was asked.
        reply_id: Identifies the reply.
        model_name: Name of the model.
    """

    def __init__(self, request: ChatRequest, reply_id: str, model_name: str) -> None:
        self._request = request
        self._id = reply_id
        self._model = model_name
        self._created = int(time.time())
        self._splitter = AnswerSplitter()

    # -- whole ------------------------------------------------------------------------------------

    def whole(self, finished: FinishedTrajectory) -> dict[str, Any]:
        """Return the reply to a request without streaming."""
        message: dict[str, Any] = {"role": "assistant"}
        if self._request.whole_completion:
            message["content"] = finished.completion
        else:
            message["content"] = finished.answer or ""
            message["reasoning_content"] = _reasoning(finished)
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": finish_reason(finished),
                }
            ],
            "usage": _usage(finished),
            "thyme": self._trajectory(finished),
        }

    # -- piece by piece ---------------------------------------------------------------------------

    def begin(self) -> str:
        """Return the first event of a stream."""
        return self._event({"role": "assistant", "content": ""})

    def text(self, event: TextEvent) -> str:
        """Return the event for what the model wrote; empty where it has to wait."""
        if self._request.whole_completion:
            return self._event({"content": event.text})
        return self._delta(self._splitter.push(event.text))

    def observation(self, event: ObservationEvent) -> str:
        """Return the event for what a block gave."""
        extra = {"observation": self._segment(event.segment)}
        if self._request.whole_completion:
            return self._event({"content": event.segment.text}, thyme=extra)
        delta = self._splitter.observe(event.segment.text)
        return self._event({"reasoning_content": delta.reasoning}, thyme=extra)

    def end(self, finished: FinishedTrajectory) -> str:
        """Return the last events of a stream."""
        text = ""
        if not self._request.whole_completion:
            text = self._delta(self._splitter.finish())
        text += self._event({}, reason=finish_reason(finished), thyme=self._trajectory(finished))
        if self._request.include_usage:
            chunk = {**self._head("chat.completion.chunk"), "choices": []}
            text += _sse({**chunk, "usage": _usage(finished)})
        return text + "data: [DONE]\n\n"

    def failure(self, body: Any) -> str:
        """Return the event for a failure after the stream has begun."""
        return _sse(body)

    def _delta(self, delta: Delta) -> str:
        fields = {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.content:
            fields["content"] = delta.content
        return self._event(fields) if fields else ""

    def _event(self, delta: dict[str, Any], *, reason: str | None = None, thyme: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return _sse(chunk if thyme is None else {**chunk, "thyme": thyme})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _trajectory(self, finished: FinishedTrajectory) -> dict[str, Any]:
        summary = finished.summary
        return {
            "answer": finished.answer,
            "end_reason": summary.end_reason.value if summary.end_reason else None,
            "tool_used": summary.tool_used,
            "turns": summary.turns,
            "statuses": list(summary.statuses),
            "repairs": list(summary.repairs),
            "segments": [self._segment(segment) for segment in finished.segments],
            "timings": {
                "total_s": round(finished.total_s, 4),
                "sandbox_s": round(summary.sandbox_s, 4),
            },
        }

    def _segment(self, segment: Segment[ReturnedImage]) -> dict[str, Any]:
        images = []
        for image in segment.images:
            found: dict[str, Any] = {"width": image.width, "height": image.height}
            if self._request.with_images:
                found["url"] = data_uri(image.data)
            images.append(found)
        return {
            "kind": segment.kind.value,
            "text": segment.text,
            "images": images,
            "tokens": segment.tokens,
            "status": segment.status,
            "repairs": list(segment.repairs),
            "duration_s": segment.duration_s,
        }


def _reasoning(finished: FinishedTrajectory) -> str:
    """Return the turn without its answer, as a stream would have said it."""
    splitter = AnswerSplitter()
    texts = []
    for segment in finished.segments:
        observed = segment.kind is SegmentKind.OBSERVATION
        delta = splitter.observe(segment.text) if observed else splitter.push(segment.text)
        texts.append(delta.reasoning)
    return "".join(texts) + splitter.finish().reasoning


def _usage(finished: FinishedTrajectory) -> dict[str, int]:
    """Return token counts; what the sandbox said counts as completion, as it stands there."""
    observed = sum(
        segment.tokens or 0
        for segment in finished.segments
        if segment.kind is SegmentKind.OBSERVATION
    )
    prompt, completion = finished.prompt_tokens or 0, (finished.sampled_tokens or 0) + observed
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _sse(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
