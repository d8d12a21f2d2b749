"""The keys of a chat request: which are read, which change nothing here, which are refused.

A key that nobody reads is an error that names it, as at OpenAI: a misspelt ``temprature`` that is
passed over gives an answer to another question. Keys that a client sends for its own book-keeping
are passed over. A key whose value is null counts as not sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["refusal"]

_READ = frozenset(
    "model messages stream stream_options temperature top_p top_k repetition_penalty seed "
    "max_tokens max_completion_tokens n thyme".split()
)
_PASSED_OVER = frozenset(
    # Book-keeping of the client.
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention "
    "parallel_tool_calls verbosity reasoning_effort request_id priority cache_salt "
    # How tokens become text: the protocol decides here.
    "skip_special_tokens spaces_between_special_tokens include_stop_str_in_output".split()
)
_READ_OF_OURS = frozenset("images content tools max_turns".split())

_UNSUPPORTED = {
    "tools": "tools of the client are not supported: the model runs its own code",
    "functions": "functions are not supported: the model runs its own code",
    "function_call": "functions are not supported: the model runs its own code",
    "logprobs": "log-probabilities are not returned",
    "top_logprobs": "log-probabilities are not returned",
    "stop": "stop strings are not supported: they would cut the model's own protocol",
    "stop_token_ids": "stop tokens are not supported: they would cut the model's own protocol",
    "continue_final_message": "this server runs the whole loop; it does not continue a turn",
    "audio": "audio is not supported",
    "logit_bias": "a bias would change the model's own protocol",
    "presence_penalty": "is not supported; repetition_penalty is",
    "frequency_penalty": "is not supported; repetition_penalty is",
    "min_p": "is not supported; top_p and top_k are",
}
"""Refused where the value is neither empty, nor zero, nor false."""

_ONLY: dict[str, tuple[Callable[[Any], bool], str]] = {
    "response_format": (
        lambda value: isinstance(value, dict) and value.get("type") == "text",
        'only {"type": "text"} is supported: a grammar would break the model\'s own protocol; the '
        "answer is the message's content",
    ),
    "tool_choice": (
        lambda value: value in ("none", "auto"),
        'only "none" and "auto" are supported: the model runs its own code',
    ),
    "modalities": (lambda value: value == ["text"], 'only ["text"] is supported'),
    "add_generation_prompt": (
        lambda value: value is True,
        "only true is supported: this server runs the whole loop",
    ),
}
"""Keys with the values that change nothing."""

_KNOWN = _READ | _PASSED_OVER | _UNSUPPORTED.keys() | _ONLY.keys()
_SHOWN_CHARS = 100


def refusal(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first key that cannot be served and the reason; None where all can.

    Args:
        body: The request.
    """
    for name, value in body.items():
        if value is None:
            continue
        if name in _UNSUPPORTED and value:
            return name, _UNSUPPORTED[name]
        if name in _ONLY and not _ONLY[name][0](value):
            return name, _ONLY[name][1]
        if name not in _KNOWN:
            return name[:_SHOWN_CHARS], _unknown(name, _KNOWN)
    ours = body.get("thyme")
    for name in ours if isinstance(ours, dict) else ():
        if name not in _READ_OF_OURS:
            return f"thyme.{name}"[:_SHOWN_CHARS], _unknown(name, _READ_OF_OURS)
    return None


def _unknown(name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name[:_SHOWN_CHARS], sorted(known), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"the key {name[:_SHOWN_CHARS]!r} is not known here{hint}"
