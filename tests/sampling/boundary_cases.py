"""Rolls scripted trajectories out with one of ms-swift's engines and writes them down, as JSON.

usage: python boundary_cases.py {transformers,vllm} MODEL OUT.json

Everything is real but the choice of tokens: engine, stop strings, hook, ms-swift's multi-turn loop,
scheduler and sandbox. The model has Qwen's vocabulary.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.infer_engine.protocol import RolloutInferRequest, RolloutOutput
from swift.rollout import invoke_async_hook, run_multi_turn
from swift.template import Template

from swift_thyme.core.protocol import STOP_STRINGS
from swift_thyme.host import cpu_vllm
from swift_thyme.host.scheduler import O3Scheduler
from swift_thyme.host.template_images import install_image_accounting
from swift_thyme.host.transformers_hook import install_sampling_hook
from swift_thyme.rewards.format import follows_format
from swift_thyme.sampling.sampling_settings import SamplingSettings
from tests.sampling.boundary_say import saying
from tests.sampling.boundary_scripts import SCRIPTS, prompt_of

ADAPTIVE = SamplingSettings(adaptive=True)
COMMON = {
    "model_type": "qwen2_5_vl",
    "template_type": "qwen2_5_vl",
    "torch_dtype": torch.float32,
}


def open_engine(kind: str, model: str) -> Any:
    if kind == "vllm":
        from swift.infer_engine import GRPOVllmEngine

        cpu_vllm.keep_plain_weights()
        return GRPOVllmEngine(
            model,
            max_model_len=1024,
            enforce_eager=True,
            max_num_seqs=32,
            limit_mm_per_prompt={"image": 1, "video": 0},
            seed=0,
            logprobs_mode="processed_logprobs",
            engine_kwargs={
                "logits_processors": [
                    "tests.sampling.boundary_logits:BoundaryLogits",
                    "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor",
                ],
                "additional_config": {"thyme": ADAPTIVE.as_config()},
            },
            **COMMON,
        )
    install_sampling_hook(ADAPTIVE)
    Template.prepare_generate_kwargs = saying()
    return TransformersEngine(model, max_batch_size=0, **COMMON)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["transformers", "vllm"])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    install_image_accounting()
    engine = open_engine(arguments.engine, arguments.model)
    template = engine.template
    config = RequestConfig(
        max_tokens=100,
        temperature=1.0,
        stop=list(STOP_STRINGS),
        return_details=True,
        logprobs=arguments.engine == "vllm",
    )
    sampled: dict[str, list[list[int]]] = {prompt_of(n): [] for n in range(len(SCRIPTS))}

    def roll_out(requests: list[Any], config: Any) -> list[Any]:
        if not requests:
            return []
        found = engine.infer(requests, config, use_tqdm=False)
        outputs = [o if isinstance(o, RolloutOutput) else RolloutOutput(response=o) for o in found]
        for request, output in zip(requests, outputs, strict=True):
            sampled[request.messages[0]["content"]].append(output.response.choices[0].token_ids)
        return outputs

    scheduler = O3Scheduler(max_turns=4, tokenizer=template.tokenizer, template=template)
    requests = [
        RolloutInferRequest(messages=[{"role": "user", "content": prompt_of(n)}], uuid=str(n))
        for n in range(len(SCRIPTS))
    ]
    invoke_async_hook(scheduler.on_trajectory_start(requests))
    first = roll_out(requests, config)
    outputs = run_multi_turn(requests, first, scheduler, roll_out, config, max_turns=4)
    results = [
        {
            "ids": [i for turn in output.response_token_ids for i in turn],
            "mask": [m for turn in output.response_loss_mask for m in turn],
            "n_logprobs": sum(map(len, output.rollout_logprobs)),
            "infos": output.rollout_infos,
            "finish_reason": output.response.choices[0].finish_reason,
            "text": output.messages[-1]["content"],
            "sampled": sampled[prompt_of(number)],
            "format": follows_format(output.messages[-1]["content"]),
        }
        for number, output in enumerate(outputs)
    ]
    arguments.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
