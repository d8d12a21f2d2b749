"""The sampling hook inside vLLM (logits-processor interface of vLLM 0.23).

vLLM loads the class by name (``swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor``) in every
process that samples, so no plugin file has to be imported there. Settings come with the engine
arguments, in ``additional_config["thyme"]``. Where a server is started by hand (``vllm serve
--logits-processors``) nobody gives any: code is sampled greedily then, and the variables of
:class:`~swift_thyme.sampling.sampling_settings.SamplingSettings` hold. A request can ask for the
sampling of code with ``vllm_xargs``.

vLLM calls processors that can change the arg-max before penalties, temperature, top-k and top-p:
what is left inside code is the arg-max of the model's own logits, whatever the penalties say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - an engine adapter
from vllm.tokenizers import cached_tokenizer_from_config  # noqa: TID253 - an engine adapter
from vllm.v1.sample.logits_processor import (  # noqa: TID253 - an engine adapter
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from swift_thyme.core.errors import SettingsError
from swift_thyme.sampling.logits import LogitsEditor, RowEdits
from swift_thyme.sampling.sampled_sequence import SampledRow
from swift_thyme.sampling.sampling_settings import SAMPLE_CODE, SamplingSettings
from swift_thyme.sampling.tokens import HookTokens
from swift_thyme.sampling.vllm_weights import accept_experts_of_transformers

if TYPE_CHECKING:
    from vllm.config import VllmConfig

__all__ = ["ThymeLogitsProcessor"]


class _Request:
    """One running request."""

    __slots__ = ("end_id", "factor", "output_ids", "row")

    def __init__(
        self, row: SampledRow, output_ids: list[int], factor: float, end_id: int | None
    ) -> None:
        self.row = row
        # vLLM appends to this list.
        self.output_ids = output_ids
        self.factor = factor
        """Multiplier of the logits inside code; 0: only the arg-max is left."""
        self.end_id = end_id
        """Token that ends the request; None where none does."""


class ThymeLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # vLLM has no type information
    """Temperature inside code, placeholder guard and repetition stop."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        if getattr(vllm_config, "use_v2_model_runner", False):
            raise SettingsError(
                "vLLM's second model runner has another interface for logits processors, and the "
                "sampling hook would not be called: set VLLM_USE_V2_MODEL_RUNNER=0"
            )
        model = vllm_config.model_config
        accept_experts_of_transformers(getattr(model.hf_config, "architectures", None) or ())
        self._settings = SamplingSettings.of_engine(vllm_config.additional_config)
        self._tokens = HookTokens.from_tokenizer(
            cached_tokenizer_from_config(model), model.hf_config.to_dict()
        )
        self._editor = LogitsEditor(
            self._tokens.forbidden, torch.device(device), pin_memory=is_pin_memory
        )
        self._requests: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        """Return False: the placeholder guard can change the arg-max."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, go and move between rows of the batch."""
        settings = self._settings
        if batch_update is None or not (settings.adaptive or settings.stop_repetition):
            return
        requests = self._requests
        for index in batch_update.removed:
            requests.pop(index, None)
        for index, params, prompt_ids, output_ids in batch_update.added:
            requests[index] = self._request(params, prompt_ids or [], output_ids)
        for source, target, direction in batch_update.moved:
            moved, replaced = requests.pop(source, None), requests.pop(target, None)
            if moved is not None:
                requests[target] = moved
            if direction is MoveDirectionality.SWAP and replaced is not None:
                requests[source] = replaced

    def _request(self, params: Any, prompt_ids: list[int], output_ids: list[int]) -> _Request:
        settings = self._settings
        adaptive = settings.adaptive and not (params.extra_args or {}).get(SAMPLE_CODE)
        row = SampledRow(
            self._tokens.texts,
            self._tokens.turn_ids(prompt_ids) if adaptive else (),
            follow_code=adaptive,
            watch_repetition=settings.stop_repetition,
        )
        end_ids = [params.eos_token_id, *(params.stop_token_ids or ())]
        end_id = next((end_id for end_id in end_ids if end_id is not None), None)
        factor = settings.code_factor(params.temperature)
        return _Request(row, output_ids, factor, end_id)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Edit logits of shape (batch, vocabulary) in place."""
        self._editor.forbid(logits)
        # Output ids are complete here and not yet in `update_state`: with asynchronous scheduling
        # the last one is filled in between.
        edits = RowEdits([], [], [])
        for index, request in self._requests.items():
            row = request.row
            row.advance(request.output_ids)
            if row.looping and request.end_id is not None:
                edits.ended.append((index, request.end_id))
            elif row.inside_code:
                if not request.factor:
                    edits.greedy.append(index)
                elif request.factor != 1:
                    edits.scaled.append((index, request.factor))
        self._editor.edit(logits, edits)
        return logits
