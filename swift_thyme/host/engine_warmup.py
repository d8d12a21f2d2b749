"""Uses a job's engine before the first step, so that what the first use builds is there by then.

vLLM makes the processor of pictures when the first one comes, and copies the tokenizer meanwhile.
With Qwen's vocabulary that took 23 s of a first step of 70 s on an H200. Kernels that a sampling
method, a picture or two prompts at once need are compiled at their first use as well.
"""

from __future__ import annotations

import copy
from typing import Any

from PIL import Image

from swift_thyme.core.protocol import IMAGE_TAG
from swift_thyme.host.turn_preparation import ready_request

__all__ = ["warm_up_engine"]

_PICTURE_SIZE = (112, 84)
_PROMPTS = (f"{IMAGE_TAG}x", f"{IMAGE_TAG}x and y")
_N_TOKENS = 3


def warm_up_engine(engine: Any, config: Any) -> str:
    """Sample a few tokens about a small picture, in the way of the job.

    Random numbers of the job are left as they are. An engine whose weights sleep only processes the
    picture: waking it needs memory that the trainer may hold.

    Args:
        engine: ms-swift's ``GRPOVllmEngine`` in this process, idle.
        config: How the job samples; ms-swift's ``RequestConfig``.

    Returns:
        What was done, as a verb for the log. A request that cannot be made is an answer too: a job
        whose engine takes no pictures may have none.
    """
    import torch

    config = copy.copy(config)
    config.max_tokens = _N_TOKENS
    core = engine.engine
    names: list[str] = []
    try:
        for prompt in _PROMPTS:
            name, add = ready_request(
                engine, _encode(engine.template, prompt), config, engine._get_grpo_lora_request()
            )
            if not core.model_executor.is_sleeping:
                add()
                names.append(name)
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            while core.has_unfinished_requests():
                core.step()
    except Exception as error:  # noqa: BLE001 - templates, processors and vLLM raise anything
        core.abort_request(names)
        return f"was not possible: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        # Where a picture was processed for the engine and never given to it, both would disagree.
        core.reset_mm_cache()
    return "done" if names else "done as far as sleeping weights allow"


def _encode(template: Any, prompt: str) -> dict[str, Any]:
    template.set_mode("vllm")
    picture = Image.new("RGB", _PICTURE_SIZE)
    row = {"messages": [{"role": "user", "content": prompt}], "images": [picture]}
    encoded: dict[str, Any] = template.encode(row, return_template_inputs=True)
    return encoded
