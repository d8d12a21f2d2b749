"""usage: python3 scripts/gpu_families.py OUT train FAMILY DTYPE [cpu]
       python3 scripts/gpu_families.py OUT table

Trains a tiny random model of a family for three steps of GRPO with vLLM in colocate mode, on the
GPU that CUDA_VISIBLE_DEVICES names, with a scripted policy whose code returns a picture. The table
says of each job what tests/families/outcomes.py asks: placeholders equal features, loss mask 0 on
observations, and how far log-probabilities of engine and trainer are apart.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.families.outcomes import differences, fault, flat, read_samples

STEPS = 3
MOST_DIFFERENCE = {"float32": 1e-2, "bfloat16": 5e-2}
"""Of a log-probability; bfloat16 has 8 bits, and logits of these models are below 1."""
ENGINE = "vllm"


def train(out: Path, family: str, dtype: str, on_cpu: bool) -> int:
    """Train a family; return 0 where the job came to its end."""
    from tests.families.family_jobs import VLLM, run, write_rows

    folder = out / dtype
    (folder / family).mkdir(parents=True, exist_ok=True)
    # Jobs of one card begin together, so none may look how much memory is free.
    kwargs = json.loads(VLLM["vllm_engine_kwargs"])
    if not on_cpu:
        kwargs["kv_cache_memory_bytes"] = 10**9
    if family.startswith("qwen3_5"):
        # FlashInfer, which vLLM takes on Hopper, is not in the pack.
        kwargs["gdn_prefill_backend"] = "triton"
    outcome = run(
        family,
        ENGINE,
        folder,
        write_rows(folder / family),
        torch_dtype=dtype,
        use_cpu=on_cpu,
        max_steps=STEPS,
        vllm_engine_kwargs=json.dumps(kwargs),
    )
    (folder / family / f"{ENGINE}.json").write_text(json.dumps(outcome))
    return int(outcome["error"] is not None)


def table(out: Path) -> int:
    """Print what the jobs showed; return how many of them did not work."""
    broken = 0
    for path in sorted(out.glob(f"*/*/{ENGINE}.json")):
        folder, dtype = path.parent, path.parent.parent.name
        samples = read_samples(folder, ENGINE)
        found = fault(folder, ENGINE, steps=STEPS, most_difference=MOST_DIFFERENCE[dtype])
        apart = [d for sample in samples for d in differences(sample)]
        masks = [m for sample in samples for m in flat(sample["response_loss_mask"])]
        features = [sample["features"] for sample in samples]
        print(
            f"{folder.name} {dtype}: {found or 'works'}; {len(samples)} samples,"
            f" {sum(sample['infos']['thyme_images'] for sample in samples)} pictures returned,"
            f" placed {sum(f['placed'] for f in features)},"
            f" given {sum(f['given'] for f in features)},"
            f" trained {sum(masks)} of {len(masks)} ids"
        )
        if apart:
            print(f"  apart: median {statistics.median(apart):.2g}, most {max(apart):.2g}")
        broken += found is not None
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table")
    job = commands.add_parser("train")
    job.add_argument("family")
    job.add_argument("dtype", choices=MOST_DIFFERENCE)
    job.add_argument("device", nargs="?", choices=("cpu",))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.command == "table":
        return table(out)
    return train(out, arguments.family, arguments.dtype, arguments.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
