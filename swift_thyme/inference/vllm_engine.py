"""The vLLM engine: many trajectories at once, continued by token ids with their images.

A turn is a request whose prompt is everything so far. With prefix caching the engine computes only
what is new, images included.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from swift_thyme.core.errors import EngineError
from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.inference.conversation import ConversationState
from swift_thyme.inference.engine import Chunk, Sampling
from swift_thyme.inference.engine_guard import OrphanGuard
from swift_thyme.inference.task import Task

__all__ = ["VllmEngine"]


class _Conversation(ConversationState):
    """A trajectory of this engine."""

    def __init__(self, engine: VllmEngine, task: Task) -> None:
        super().__init__(engine.template, task)
        self._engine = engine
        self._task_id = task.id

    async def sample(
        self, sampling: Sampling, *, seed: int, max_tokens: int | None, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        """Sample the next turn; see :class:`swift_thyme.inference.engine.Conversation`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            repetition_penalty=sampling.repetition_penalty,
            # A generator of its own costs a request a place in the fast sampler.
            seed=seed if sampling.temperature > 0 else None,
            max_tokens=max_tokens,
            stop=list(STOP_STRINGS),
            stop_token_ids=self._engine.end_ids,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        )
        prompt: dict[str, Any] = {"prompt_token_ids": self.engine_ids}
        if self.images:
            prompt["multi_modal_data"] = {"image": list(self.images)}
            prompt["mm_processor_kwargs"] = self.codec.processor_kwargs
        request_id = f"{self._task_id}-{next(self._engine.request_numbers)}"
        outputs = self._engine.engine.generate(prompt, params, request_id)
        try:
            async for output in outputs:
                choice = output.outputs[0]
                reason = choice.finish_reason
                if reason is not None and reason not in ("stop", "length"):
                    raise EngineError(f"vLLM ended a request with {reason!r}")
                yield Chunk(list(choice.token_ids), reason)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"vLLM failed to generate: {error}") from error
        except Exception as error:
            # vLLM's own errors share no base class but Exception.
            raise EngineError(f"vLLM failed to generate: {error!r}") from error
        finally:
            await outputs.aclose()


class VllmEngine:
    """Generates with vLLM's asynchronous engine.

    Args:
        engine: vLLM's ``AsyncLLM``.
        template: The model's ms-swift template.
        model_name: Name for reports.
        max_images: Most images of one trajectory; the engine's own limit.
        max_total_tokens: Longest prompt and turn together, in tokens.
        end_ids: Ids that end a text.
        guard: Guards the engine's processes; closed with the engine.
    """

    def __init__(
        self,
        engine: Any,
        template: Any,
        *,
        model_name: str,
        max_images: int,
        max_total_tokens: int,
        end_ids: list[int],
        guard: OrphanGuard,
    ) -> None:
        self.engine = engine
        self.template = template
        self.model_name = model_name
        self.max_images = max_images
        self.max_total_tokens = max_total_tokens
        self.end_ids = end_ids
        self.request_numbers = itertools.count()
        self._guard = guard

    async def begin(self, task: Task) -> _Conversation:
        """Encode a prompt and begin its conversation."""
        return await asyncio.to_thread(_Conversation, self, task)

    async def close(self) -> None:
        """End the engine's processes; may be called twice."""
        await asyncio.to_thread(self.engine.shutdown)
        await asyncio.to_thread(self._guard.close)
