"""The sampling hook inside the transformers engine."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch  # noqa: TID253 - an engine adapter
from transformers import (  # noqa: TID253 - an engine adapter
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from swift_thyme.host.image_tokens import hook_tokens
from swift_thyme.sampling.logits import LogitsEditor, RowEdits
from swift_thyme.sampling.sampled_sequence import SampledRow
from swift_thyme.sampling.sampling_settings import SamplingSettings
from swift_thyme.sampling.tokens import HookTokens

__all__ = ["ThymeLogitsProcessor", "install_sampling_hook"]


_PROMPTS = "thyme_prompts"
"""Attribute of a template that made embeddings of prompts: their ids."""


class ThymeLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # no type information
    """Temperature inside code, placeholder guard and repetition stop.

    One object serves one ``generate`` call, which keeps its rows in place.

    Args:
        tokens: What the model's tokenizer says.
        settings: What to do.
        temperature: The call's sampling temperature; 0 where it does not sample.
        end_id: Token that ends a row; None where none does.
        prompts: Ids of each row's prompt, where the call generates from embeddings.
    """

    def __init__(
        self,
        tokens: HookTokens,
        settings: SamplingSettings,
        *,
        temperature: float = 1.0,
        end_id: int | None = None,
        prompts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self._tokens = tokens
        self._settings = settings
        self._factor = settings.code_factor(temperature)
        self._end_id = end_id
        self._prompts = prompts
        self._editor: LogitsEditor | None = None
        self._rows: list[SampledRow] = []
        self._sampled: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return edited scores of shape (batch, vocabulary).

        Args:
            input_ids: Prompts and sampled ids, shape (batch, length); sampled ids alone where the
                model generates from embeddings.
            scores: The model's logits; left as they are, because the engine may return them too.
        """
        if self._editor is None:
            self._editor = LogitsEditor(self._tokens.forbidden, scores.device)
        scores = scores.clone()
        self._editor.forbid(scores)
        if self._settings.adaptive or self._settings.stop_repetition:
            self._advance(input_ids)
            self._editor.edit(scores, self._edits())
        return scores

    def _advance(self, input_ids: torch.Tensor) -> None:
        if not self._rows:
            for prompt_ids in self._prompts or input_ids.tolist():
                self._rows.append(
                    SampledRow(
                        self._tokens.texts,
                        self._tokens.turn_ids(prompt_ids) if self._settings.adaptive else (),
                        follow_code=self._settings.adaptive,
                        watch_repetition=self._settings.stop_repetition,
                    )
                )
                self._sampled.append([])
            return
        last_ids = input_ids[:, -1].tolist()
        for row, sampled, token_id in zip(self._rows, self._sampled, last_ids, strict=True):
            sampled.append(token_id)
            row.advance(sampled)

    def _edits(self) -> RowEdits:
        edits = RowEdits([], [], [])
        for index, row in enumerate(self._rows):
            if row.looping and self._end_id is not None:
                edits.ended.append((index, self._end_id))
            elif row.inside_code:
                if not self._factor:
                    edits.greedy.append(index)
                elif self._factor != 1:
                    edits.scaled.append((index, self._factor))
        return edits


def _end_id(eos_token_id: int | Sequence[int] | None) -> int | None:
    if eos_token_id is None or isinstance(eos_token_id, int):
        return eos_token_id
    return int(eos_token_id[0]) if len(eos_token_id) else None


def _remember_prompts(template_class: Any) -> None:
    """Have templates that make embeddings of a prompt keep its ids for the hook (idempotent)."""
    base = template_class.pre_forward_hook
    if getattr(base, "thyme_installed", False):
        return

    @functools.wraps(base)
    def pre_forward_hook(self: Any, model: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        prompts = kwargs.get("input_ids")
        result = base(self, model, args, kwargs)
        if not self.is_training and prompts is not None and "inputs_embeds" in result[1]:
            self.__dict__[_PROMPTS] = prompts.tolist()
        return result

    pre_forward_hook.thyme_installed = True  # type: ignore[attr-defined]
    template_class.pre_forward_hook = pre_forward_hook


def install_sampling_hook(settings: SamplingSettings) -> None:
    """Give every generation through an ms-swift template this hook (again replaces it)."""
    from swift.template import Template

    base = getattr(Template.prepare_generate_kwargs, "thyme_base", Template.prepare_generate_kwargs)
    _remember_prompts(Template)
    known: dict[int, tuple[Any, HookTokens]] = {}

    @functools.wraps(base)
    def prepare_generate_kwargs(
        self: Any, generate_kwargs: dict[str, Any], *, model: Any = None
    ) -> dict[str, Any]:
        kwargs: dict[str, Any] = base(self, generate_kwargs, model=model)
        config = kwargs["generation_config"]
        tokenizer = self.tokenizer
        if id(tokenizer) not in known:
            # The tokenizer is kept too, so that its identity stays its own.
            known[id(tokenizer)] = tokenizer, hook_tokens(self)
        processors: list[Any] = [
            ThymeLogitsProcessor(
                known[id(tokenizer)][1],
                settings,
                temperature=config.temperature if config.do_sample else 0.0,
                end_id=_end_id(config.eos_token_id),
                prompts=self.__dict__.pop(_PROMPTS, None),
            )
        ]
        penalty = config.repetition_penalty
        if settings.adaptive and penalty not in (None, 1.0):
            # transformers would apply it before our processor; in vLLM it comes after, and code is
            # the arg-max of the model's own logits.
            kwargs["generation_config"] = config = copy.copy(config)
            config.repetition_penalty = 1.0
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        processors += kwargs.get("logits_processor") or []
        kwargs["logits_processor"] = LogitsProcessorList(processors)
        return kwargs

    prepare_generate_kwargs.thyme_base = base  # type: ignore[attr-defined]
    Template.prepare_generate_kwargs = prepare_generate_kwargs
