r"""What an ms-swift template puts in front of the assistant's turn: its *response prefix*.

It comes from ``--response_prefix``, from ``--enable_thinking``, or from the template:
``<think>\n``, or the empty thought ``<think>\n\n</think>\n\n`` where thinking is off. No other
module asks for it. It is accounted for once:

* Among token ids it belongs to the prompt: tokens of its own, the same ones in the first prompt of
  an engine, in the prompts of later turns, in a trained rollout and in a supervised row, with loss
  mask 0.
* In reading it belongs to the completion. What it says there is the business of
  :mod:`swift_thyme.core.reading`, for which an empty thought in front is no thought.

Stock ms-swift 4.6 joins it to the prompt's text in the first turn and makes tokens of it alone
later, prepends its text to every turn of a rollout, and leaves it out of supervised rows.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from swift_thyme.core.errors import SettingsError
from swift_thyme.core.loss_mask import after_prefix
from swift_thyme.core.protocol import IMAGE_TAG, THINK_CLOSE, THINK_OPEN
from swift_thyme.core.reading import begins_tag, find_tags
from swift_thyme.core.thinking import OF_THE_PROTOCOL, ThinkingTags, tags_from_environment
from swift_thyme.rewards.format import follows_format

__all__ = [
    "NO_PREFIX",
    "ResponsePrefix",
    "check_prefix",
    "check_server",
    "install_prefix_accounting",
    "prefix_of",
    "thinking_tags",
    "warn_about_format",
]

logger = logging.getLogger(__name__)

_ONE_TAG = re.compile(r"<[\w:]+>")


@dataclass(frozen=True, slots=True)
class ResponsePrefix:
    """What stands in front of an assistant's turn; empty for most templates."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    """Its tokens, on their own."""

    def split(
        self, token_ids: Sequence[int], loss_mask: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Return a trained rollout's ids and mask without the prefix, where they begin with it.

        Args:
            token_ids: The ids, shape (n,).
            loss_mask: Their loss mask, shape (n,).
        """
        n = len(self.token_ids)
        there = tuple(token_ids[:n]) == self.token_ids and not any(loss_mask[:n])
        start = n if there else 0
        return list(token_ids[start:]), list(loss_mask[start:])


NO_PREFIX = ResponsePrefix()


def prefix_of(
    template: Any, chat_template_kwargs: Mapping[str, Any] | None = None
) -> ResponsePrefix:
    """Return the prefix of the turns that a template's model samples.

    Args:
        template: An ms-swift template with a ready processor.
        chat_template_kwargs: What the row says about it (``enable_thinking``), which wins.

    Raises:
        SettingsError: See :func:`check_prefix`.
    """
    row = SimpleNamespace(chat_template_kwargs=dict(chat_template_kwargs or {}))
    text = template._get_response_prefix(row) or ""
    check_prefix(text)
    ids = template.tokenizer.encode(text, add_special_tokens=False) if text else []
    return ResponsePrefix(text, tuple(ids))


def check_prefix(text: str) -> None:
    """Refuse a prefix that opens something in the model's name.

    The sampling hook, the loss mask and the search for code see sampled tokens alone.

    Raises:
        SettingsError: It holds a tag other than those of a thought, or ends inside one.
    """
    thought = (THINK_OPEN, THINK_CLOSE)
    # A tag that is begun, and whole ones: they begin themselves.
    found = [*find_tags(text), begins_tag(text).lower(), IMAGE_TAG if IMAGE_TAG in text else ""]
    wrong = [tag for tag in found if tag and tag not in thought]
    if wrong:
        raise SettingsError(
            f"--response_prefix {text!r}: of the protocol's tags it may hold {THINK_OPEN} and "
            f"{THINK_CLOSE} alone, whole; {wrong[0]} is for the model to write"
        )


def check_server(samples: Sequence[Any], template: Any) -> None:
    """Stop where a server samples behind another prefix than the trainer puts in front.

    Args:
        samples: ms-swift's samples after their rollout.
        template: The trainer's template.

    Raises:
        SettingsError: It does; the message names both prefixes.
    """
    for sample in samples:
        there = (sample.rollout_infos or {}).get("thyme_response_prefix")
        if there is None:
            continue
        here = prefix_of(template, sample.extra.get("chat_template_kwargs")).text
        if there != here:
            raise SettingsError(
                f"`swift rollout` samples behind the response prefix {there!r}, and this job "
                f"trains behind {here!r}: give both the same --response_prefix, --enable_thinking "
                "and --template"
            )


def thinking_tags(template: Any) -> ThinkingTags:
    """Return the tags around the thoughts of a template's model.

    ``THYME_THINK_TAGS`` wins; a template says it in the methods that look for them, or in the
    prefix that opens a thought.

    Args:
        template: An ms-swift template.
    """
    given = tags_from_environment()
    if given is not None:
        return given
    found = [
        inspect.signature(method).parameters.get(name)
        for method, name in (
            (template._add_non_thinking_prefix, "thinking_prefix"),
            (template._remove_thinking_content, "thinking_suffix"),
        )
    ]
    opening, closing = (
        p.default if p is not None and isinstance(p.default, str) else default
        for p, default in zip(found, (THINK_OPEN, THINK_CLOSE), strict=True)
    )
    prefix = str(template.template_meta.thinking_prefix or "").strip()
    if (opening, closing) == (THINK_OPEN, THINK_CLOSE) and _ONE_TAG.fullmatch(prefix):
        return ThinkingTags(prefix, f"</{prefix[1:]}")
    return ThinkingTags(opening, closing)


def warn_about_format(prefix: ResponsePrefix, tags: ThinkingTags = OF_THE_PROTOCOL) -> None:
    """Say in the log where no completion after the prefix can follow the rewarded format."""
    rests = ("x</think><answer>x</answer>", "<think>x</think><answer>x</answer>")
    if not any(follows_format(tags.canonical(prefix.text) + rest) for rest in rests):
        logger.warning(
            "every completion begins with the response prefix %r, so none follows the format that "
            "fmt_orm rewards: one that opens a thought does",
            prefix.text,
        )


def _put_in_front(template: Any, inputs: Any) -> None:
    """Put the prefix in front of the demonstrations of a supervised row, not trained on."""
    from swift.template.utils import get_last_user_round

    prefix = template._get_response_prefix(inputs)
    if not prefix:
        return
    check_prefix(prefix)
    messages = inputs.messages
    # ms-swift takes the thoughts out of the turns before these, as in the prompt of a rollout.
    keeps_all = template.loss_scale.base_strategy != "last_round"
    keeps_all = keeps_all and template._get_preserve_thinking(inputs)
    first = -1 if keeps_all else get_last_user_round(messages)
    ids = template.tokenizer.encode(prefix, add_special_tokens=False)
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index < first:
            continue
        content = message["content"]
        # ms-swift has joined neighbouring messages of the assistant to a list.
        pieces = content if isinstance(content, list) else [content]
        if not pieces or not isinstance(pieces[0], str):
            continue
        rest = after_prefix(pieces[0], prefix)
        if rest is None:
            continue
        for key, front in (("loss", False), ("loss_scale", None)):
            value = message.get(key)
            values = value if isinstance(value, list) else [value] * len(pieces)
            message[key] = [front, *values]
        message["content"] = [ids, rest, *pieces[1:]]


def _encode(base: Callable[..., Any], template: Any, inputs: Any) -> Any:
    if template.is_training:
        # Its module needs ms-swift, and commands that load no model import this one.
        from swift_thyme.host.loss_scale import let_thyme_decide

        if let_thyme_decide(template):
            _put_in_front(template, inputs)
        return base(template, inputs)
    contexts, weights, answer_len = base(template, inputs)
    prefix = template._get_response_prefix(inputs)
    if prefix and inputs.messages[-1]["content"] is None and contexts[-1] == prefix:
        # ms-swift joins neighbouring texts before it makes tokens of them; an empty list of ids
        # between them is nothing but a border.
        contexts.insert(-1, [])
        weights.insert(-1, weights[-1])
    return contexts, weights, answer_len


def install_prefix_accounting() -> None:
    """Make ms-swift's templates account for the prefix once (idempotent)."""
    from swift.template import Template

    base = Template._swift_encode
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def _swift_encode(self: Any, inputs: Any) -> Any:
        return _encode(base, self, inputs)

    _swift_encode.thyme_installed = True  # type: ignore[attr-defined]
    Template._swift_encode = _swift_encode
