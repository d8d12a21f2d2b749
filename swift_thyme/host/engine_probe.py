"""Does the engine of a job sample with the hook? Shown by a token that the hook rules out.

A request of one greedy token gives the placeholder of an image a bias that no other token can beat.
An engine without the hook samples it, and one with the hook cannot. No random number is drawn, so
a run with the probe samples as one without it.
"""

from __future__ import annotations

import itertools
from typing import Any

from swift_thyme.core.errors import EngineError
from swift_thyme.sampling.sampling_settings import VLLM_HOOK
from swift_thyme.sampling.tokens import HookTokens

__all__ = ["probe_async_engine", "probe_engine", "probe_template"]

_BIAS = 100.0
_REQUEST = "thyme-probe"
_HOOK = VLLM_HOOK.rpartition(":")[2]
_numbers = itertools.count()
"""Names of requests must differ; a property of this process, hence global."""

_WITHOUT_HOOK = (
    "the engine samples without the sampling hook, so it can sample placeholders of images: give "
    "--external_plugins and --O3 true to `swift rollout` as well as to `swift rlhf`"
)


def _request(tokens: HookTokens, prompt_id: int) -> tuple[dict[str, Any], Any, str]:
    """Return prompt, sampling parameters and name of a request of one token."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        detokenize=False,
        logit_bias={token_id: _BIAS for token_id in tokens.forbidden},
    )
    name = f"{_REQUEST}-{next(_numbers)}"
    return {"prompt_token_ids": [prompt_id]}, params, name


def _judge(sampled: list[int], tokens: HookTokens) -> None:
    if not sampled:
        raise EngineError("the engine ended a request of one token without a token")
    if not tokens.forbidden.isdisjoint(sampled):
        raise EngineError(_WITHOUT_HOOK)


def _first_text_id(tokenizer: Any, tokens: HookTokens) -> int:
    return next(i for i in range(len(tokenizer)) if i not in tokens.forbidden)


def probe_engine(engine: Any, tokenizer: Any) -> str:
    """Let vLLM's engine in this process sample a token.

    An engine whose weights sleep samples nothing: waking them needs memory that the trainer may
    hold. There the hook is looked for where the engine keeps it.

    Args:
        engine: vLLM's ``LLMEngine``.
        tokenizer: The model's.

    Returns:
        What was found, as a verb for the log.

    Raises:
        EngineError: It samples without the hook, or not at all.
    """
    tokens = HookTokens.from_tokenizer(tokenizer)
    if engine.model_executor.is_sleeping:
        _make_sure_of_the_hook(engine)
        return "has the hook and sleeps"
    if tokens.forbidden:
        prompt, params, name = _request(tokens, _first_text_id(tokenizer, tokens))
        sampled: list[int] = []
        try:
            engine.add_request(name, prompt, params)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    sampled += output.outputs[0].token_ids
        except Exception as error:
            # vLLM's own errors share no base class but Exception.
            raise EngineError(f"the engine cannot sample: {_one_line(error)}") from error
        _judge(sampled, tokens)
    return "works"


def _make_sure_of_the_hook(engine: Any) -> None:
    runner = engine.model_executor.driver_worker.worker.model_runner
    loaded = runner.input_batch.logitsprocs.non_argmax_invariant
    if not any(type(processor).__name__ == _HOOK for processor in loaded):
        raise EngineError(_WITHOUT_HOOK)


async def probe_async_engine(engine: Any, tokenizer: Any) -> None:
    """Let vLLM's engine in processes of its own sample a token.

    Args:
        engine: vLLM's ``AsyncLLM``.
        tokenizer: The model's.

    Raises:
        EngineError: It samples without the hook, or not at all.
    """
    tokens = HookTokens.from_tokenizer(tokenizer)
    if not tokens.forbidden:
        return
    prompt, params, name = _request(tokens, _first_text_id(tokenizer, tokens))
    sampled: list[int] = []
    try:
        async for output in engine.generate(prompt, params, name):
            sampled = list(output.outputs[0].token_ids)
    except Exception as error:
        # As above.
        raise EngineError(f"the engine cannot sample: {_one_line(error)}") from error
    _judge(sampled, tokens)


def probe_template(template: Any) -> None:
    """Make sure that a generation of transformers through a template has the hook.

    Args:
        template: ms-swift's template of the job.

    Raises:
        EngineError: It has not.
    """
    import torch
    from transformers import GenerationConfig

    tokens = HookTokens.from_tokenizer(template.tokenizer)
    if not tokens.forbidden:
        return
    config = GenerationConfig(do_sample=False)
    kwargs = template.prepare_generate_kwargs({"generation_config": config})
    scores = torch.zeros(1, max(len(template.tokenizer), *tokens.forbidden) + 1)
    prompt = torch.tensor([[_first_text_id(template.tokenizer, tokens)]])
    for processor in kwargs.get("logits_processor") or ():
        scores = processor(prompt, scores)
    if any(scores[0, token_id] > -_BIAS for token_id in tokens.forbidden):
        raise EngineError(_WITHOUT_HOOK)


def _one_line(error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}"
