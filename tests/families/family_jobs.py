"""usage: python -m tests.families.family_jobs OUT ENGINE FAMILY...

Trains tiny random models for two steps of GRPO, one after the other in one process: importing
ms-swift takes longer than a job.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.families.outcomes import SAMPLES, STEPS
from tests.families.tiny_models import FAMILIES, Family
from tests.plain import as_argv

VLLM = {
    **{"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_len": 512},
    **{"vllm_enforce_eager": True, "vllm_gpu_memory_utilization": 0.1},
    "vllm_engine_kwargs": json.dumps(
        {"logits_processors": ["tests.families.family_logits:FamilyLogits"]}
    ),
}


def write_rows(folder: Path) -> Path:
    """Write the rows of a job: two questions about a small picture."""
    from PIL import Image

    from swift_thyme.core.protocol import build_user_prompt

    picture = folder / "picture.png"
    Image.effect_noise((112, 84), 60).convert("RGB").save(picture)
    rows = folder / "rows.jsonl"
    with rows.open("w") as file:
        for question in ("How many?", "And how many now?"):
            prompt = build_user_prompt(question, str(picture), (112, 84))
            row = {"messages": [{"role": "user", "content": prompt}], "images": [str(picture)]}
            file.write(json.dumps({**row, "solution": "2", "question": question}) + "\n")
    return rows


def flags_of(family: Family, model: Path, rows: Path, output: Path) -> dict[str, Any]:
    """Return the flags of a family's job."""
    return {
        "rlhf_type": "grpo",
        "model": str(model),
        "model_type": family.model_type,
        "template": family.template,
        "external_plugins": [
            *("plugin/agent_rm.py", "plugin/testbed.py", "tests/families/family_plugin.py")
        ],
        "O3": True,
        "reward_funcs": ["vqa_orm"],
        "dataset": str(rows),
        "split_dataset_ratio": 0,
        "tuner_type": "full",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "use_cpu": True,
        "max_steps": STEPS,
        "per_device_train_batch_size": SAMPLES,
        "num_generations": SAMPLES,
        "max_length": 512,
        "max_completion_length": 160,
        "temperature": 1.0,
        "beta": 0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "dataloader_num_workers": 0,
        "load_from_cache_file": False,
        "use_hf": True,
        "check_model": False,
        "output_dir": str(output),
        "add_version": False,
        "gradient_checkpointing": False,
    }


def run(name: str, engine: str, out: Path, rows: Path, **other: Any) -> dict[str, Any]:
    """Run the job of a family and return what became of it.

    Args:
        name: Key of the family.
        engine: ``vllm`` or ``transformers``.
        out: Where its folder lies, or is made.
        rows: The data.
        other: Flags in place of those of :func:`flags_of`.
    """
    from swift.pipelines import rlhf_main

    folder = out / name
    model = folder / "model"
    if not model.is_dir():
        FAMILIES[name].write(model)
    capture = folder / f"{engine}.jsonl"
    capture.unlink(missing_ok=True)
    os.environ["THYME_CAPTURE"] = str(capture)
    # A plugin is imported once per process, and takes its flags when it is imported.
    for module_name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).endswith("agent_rm.py"):
            del sys.modules[module_name]
    flags = flags_of(FAMILIES[name], model, rows, folder / engine)
    try:
        rlhf_main(as_argv({**flags, **(VLLM if engine == "vllm" else {}), **other}))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the table says what it was
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()
    return {"error": None}


def main() -> None:
    """Run the jobs; what became of each is in OUT/FAMILY/ENGINE.json."""
    folder, engine, *names = sys.argv[1:]
    out = Path(folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows = write_rows(out)
    for name in names:
        outcome = run(name, engine, out, rows)
        (out / name / f"{engine}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main()
