"""Samples with one of ms-swift's engines and writes down what came out, as JSON.

usage: python engine_cases.py {transformers,vllm} DATA_DIR OUT.json

Everything is real: engine, hook, tiny model. What was sampled is looked at again with the model's
own logits for the whole sequence (teacher forcing, transformers, float32).
"""

import argparse
import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
from swift.infer_engine import RequestConfig, TransformersEngine
from swift.template import Template

from swift_thyme.core.errors import EngineError
from swift_thyme.host import cpu_vllm
from swift_thyme.host import tiny_template as template
from swift_thyme.host.engine_probe import probe_engine, probe_template
from swift_thyme.host.engine_warmup import warm_up_engine
from swift_thyme.host.template_images import install_image_accounting
from swift_thyme.host.transformers_hook import install_sampling_hook
from swift_thyme.sampling.code_span import CodeSpan
from swift_thyme.sampling.sampling_settings import SamplingSettings
from swift_thyme.sampling.tokens import HookTokens
from tests.conftest import TINY_MODEL
from tests.sampling.scripts import SCRIPTS, script_of

ADAPTIVE = SamplingSettings(adaptive=True)
STOP = ["</code>", "</answer>"]
PLAIN = {"temperature": 1.0, "top_k": 706, "top_p": 1.0, "repetition_penalty": 1.0}
COMPOSED = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3}
N_COMPLETIONS = 208
N_DRAWS = 600
LOCATION = "<think>The plate is near ("
# Without a sentence that names the window, the model has to choose it inside the code.
WINDOW = "<think><code>\n```python\nimage = Image.open(image_path)\ncrop = image.crop(("


class Sampler:
    """One engine, and the sampling hook with settings that can be changed."""

    def __init__(self, engine: str) -> None:
        install_image_accounting()
        template.add_template()
        cpu_vllm.keep_plain_weights()
        common = {"model_type": "qwen2_5_vl", "torch_dtype": torch.float32}
        self.reference = TransformersEngine(
            str(TINY_MODEL), template_type="thyme_tiny", max_batch_size=0, **common
        )
        self.kind = engine
        self.engine: Any = self.reference
        if engine == "vllm":
            from swift.infer_engine import GRPOVllmEngine

            self.engine = GRPOVllmEngine(
                str(TINY_MODEL),
                template_type="thyme_tiny",
                max_model_len=4096,
                enforce_eager=True,
                max_num_seqs=64,
                limit_mm_per_prompt={"image": 6, "video": 0},
                seed=0,
                logprobs_mode="processed_logprobs",
                engine_kwargs={
                    "logits_processors": [
                        "tests.sampling.scripted:NamedScript",
                        "swift_thyme.sampling.vllm_hook:ThymeLogitsProcessor",
                    ],
                    "additional_config": {"thyme": ADAPTIVE.as_config()},
                },
                **common,
            )
        self.tokens = HookTokens.from_tokenizer(self.reference.template.tokenizer)

    def use(self, settings: SamplingSettings | None) -> None:
        """Change the hook's settings; None takes the hook out."""
        if self.kind == "transformers":
            if settings is None:
                Template.prepare_generate_kwargs = Template.prepare_generate_kwargs.thyme_base
            else:
                install_sampling_hook(settings)
            return
        runner = self.engine.engine.model_executor.driver_worker.worker.model_runner
        processors = runner.input_batch.logitsprocs.non_argmax_invariant
        if not hasattr(self, "hook"):
            (self.hook,) = [p for p in processors if type(p).__name__ == "ThymeLogitsProcessor"]
        processors[:] = [p for p in processors if p is not self.hook]
        if settings is not None:
            self.hook._settings = settings
            processors.append(self.hook)

    def sample(self, requests: list[dict], n: int = 1, **config: Any) -> list[Any]:
        """Return the choices of all requests."""
        torch.manual_seed(2)
        config = {"max_tokens": 200, "stop": STOP, **PLAIN, **config}
        request = RequestConfig(n=n, return_details=True, logprobs=self.kind == "vllm", **config)
        outputs = self.engine.infer(requests, request, use_tqdm=False)
        return [c for o in outputs for c in getattr(o, "response", o).choices]

    def probe(self, sleeping: bool = False) -> str:
        """Return what the probe before the first step of a job says; empty where it is content."""
        try:
            if self.kind == "transformers":
                probe_template(self.reference.template)
                return ""
            executor = self.engine.engine.model_executor
            executor.is_sleeping = sleeping
            try:
                found = probe_engine(self.engine.engine, self.engine.tokenizer)
            finally:
                executor.is_sleeping = False
            assert found == ("has the hook and sleeps" if sleeping else "works")
        except EngineError as error:
            return str(error)
        return ""

    def warm_up(self, *, sleeping: bool = False, limit: int | None = None) -> dict[str, Any]:
        """Return what the warm-up says, and whether it left things as they were."""
        engine = self.engine
        config = RequestConfig(max_tokens=200, logprobs=True, **COMPOSED)
        before, template_limit = torch.get_rng_state(), engine.template.max_length
        engine.engine.model_executor.is_sleeping = sleeping
        engine.template.max_length = limit or template_limit
        try:
            said = warm_up_engine(engine, config)
        finally:
            engine.engine.model_executor.is_sleeping = False
            engine.template.max_length = template_limit
        idle = not engine.engine.has_unfinished_requests()
        same = torch.equal(torch.get_rng_state(), before) and config.max_tokens == 200
        return {"said": said, "idle": idle, "same": same}

    def encode_text(self, text: str) -> list[int]:
        return self.reference.template.tokenizer.encode(text, add_special_tokens=False)

    @torch.no_grad()
    def logits(self, rows: list[dict], id_lists: list[list[int]]) -> list[torch.Tensor]:
        """Return the model's logits for each sampled id, (ids, vocabulary) for each list."""
        model_template = self.reference.template
        model_template.set_mode("train")
        encoded = []
        for row, ids in zip(rows, id_lists, strict=True):
            answer = {"role": "assistant", "content": list(ids)}
            encoded.append(
                model_template.encode(
                    {"messages": [*row["messages"], answer], "images": row["images"]}
                )
            )
        inputs = model_template.data_collator(encoded)
        labels = inputs.pop("labels")
        _, inputs = model_template.pre_forward_hook(self.reference.model, None, inputs)
        outputs = self.reference.model(**inputs).logits
        found = []
        for output, label, ids in zip(outputs, labels, id_lists, strict=True):
            start = int((label != -100).nonzero()[0])
            assert label[start : start + len(ids)].tolist() == list(ids)
            logits = output[start - 1 : start - 1 + len(ids)].clone()
            logits[:, sorted(self.tokens.forbidden)] = float("-inf")
            found.append(logits)
        return found


def as_request(row: dict, prefix: list[int] | None = None) -> dict:
    messages = list(row["messages"])
    if prefix is not None:
        messages.append({"role": "assistant", "content": prefix})
    return {"messages": messages, "images": row["images"]}


def code_tokens(sampler: Sampler, rows: list[dict], choices: list[Any]) -> dict[str, Any]:
    """Say how far below the model's best allowed logit each sampled token inside code is."""
    gaps, n_text_not_best, n_blocks = [], 0, 0
    for start in range(0, len(rows), 52):
        some = choices[start : start + 52]
        id_lists = [choice.token_ids for choice in some]
        for ids, logits in zip(
            id_lists, sampler.logits(rows[start : start + 52], id_lists), strict=True
        ):
            taken = logits.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
            gap = (logits.max(dim=1).values - taken).tolist()
            text = CodeSpan().text_mask(sampler.tokens.texts, ids)
            gaps += [g for g, is_text in zip(gap, text, strict=True) if not is_text]
            n_text_not_best += sum(g > 0 for g, is_text in zip(gap, text, strict=True) if is_text)
            n_blocks += 0 in text
    return {"gaps": gaps, "n_text_not_best": n_text_not_best, "n_blocks": n_blocks}


def first_tokens(
    sampler: Sampler, row: dict, prefix_text: str, **config: Any
) -> tuple[list[int], list[float]]:
    """Return how often each token was drawn after a prefix, and the model's logits there."""
    prefix = sampler.encode_text(prefix_text)
    choices = sampler.sample([as_request(row, prefix)], n=N_DRAWS, max_tokens=1, **config)
    drawn = Counter(choice.token_ids[0] for choice in choices)
    (logits,) = sampler.logits([row], [[*prefix, prefix[0]]])
    return [drawn[i] for i in range(logits.shape[1])], logits[-1].tolist()


@contextlib.contextmanager
def scripted(sampler: Sampler, names: list[str]) -> Iterator[None]:
    """Let the transformers model say scripts; in vLLM a logits processor does it."""
    if sampler.kind == "vllm":
        yield
        return
    steps = itertools.count()

    def say(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        step = next(steps)
        for row, name in enumerate(names):
            script = SCRIPTS[name]
            output[row, -1, script[min(step, len(script) - 1)]] = 1e4
        return output

    handle = sampler.reference.model.get_output_embeddings().register_forward_hook(say)
    yield
    handle.remove()


def loops(sampler: Sampler, row: dict) -> dict[str, Any]:
    """Return what became of each script."""
    # The transformers engine needs a step of the whole batch for each token.
    most = 1000 if sampler.kind == "transformers" else 10_000
    names = [name for name, script in SCRIPTS.items() if len(script) <= most]
    requests = [
        as_request(row | {"messages": [{"role": "user", "content": f"<image>{script_of(name)}"}]})
        for name in names
    ]
    with scripted(sampler, names):
        longest = max(len(SCRIPTS[name]) for name in names)
        choices = sampler.sample(requests, max_tokens=longest, stop=[])
    return {
        name: {"token_ids": choice.token_ids, "finish_reason": choice.finish_reason}
        for name, choice in zip(names, choices, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["transformers", "vllm"])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.data / "rl.jsonl").read_text().splitlines()]
    for row in rows:
        # Prompts name the picture's path, and what is drawn depends on every token of a prompt.
        for message in row["messages"]:
            message["content"] = message["content"].replace(str(arguments.data), "/data")
    sampler = Sampler(arguments.engine)
    many = [rows[i % len(rows)] for i in range(N_COMPLETIONS)]
    requests = [as_request(row) for row in many]
    results: dict[str, Any] = {"forbidden": sorted(sampler.tokens.forbidden)}

    sampler.use(ADAPTIVE)
    results["probe"] = {"on": [sampler.probe(), sampler.probe(sleeping=True)]}
    if sampler.kind == "vllm":
        results["warm_up"] = [
            sampler.warm_up(),
            sampler.warm_up(sleeping=True),
            sampler.warm_up(limit=3),
        ]
    choices = sampler.sample(requests)
    results["on"] = code_tokens(sampler, many, choices)
    if sampler.kind == "vllm":
        results["code_logprobs"] = [
            entry["logprob"]
            for choice in choices
            for entry, is_text in zip(
                choice.logprobs["content"],
                CodeSpan().text_mask(sampler.tokens.texts, choice.token_ids),
                strict=True,
            )
            if not is_text
        ]
    results["composed"] = code_tokens(
        sampler, many[:64], sampler.sample(requests[:64], seed=1, **COMPOSED)
    )
    results["text"] = first_tokens(sampler, rows[0], LOCATION)
    results["greedy"] = first_tokens(sampler, rows[0], WINDOW)
    sampler.use(SamplingSettings(adaptive=True, code_temperature=0.5))
    results["half"] = first_tokens(sampler, rows[0], WINDOW)
    results["loops"] = loops(sampler, rows[0])
    sampler.use(None)
    results["probe"]["off"] = [sampler.probe(sleeping=True), sampler.probe()]
    results["off"] = first_tokens(sampler, rows[0], WINDOW)
    arguments.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
