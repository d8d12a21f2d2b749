"""What the jobs of families showed: read from what their plugin wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STEPS, SAMPLES = 2, 2
MOST_DIFFERENCE = 1e-2
"""Of a log-probability in float32, between engine and trainer."""


def flat(nested: list[list[Any]]) -> list[Any]:
    """Return the items of lists in a list."""
    return [item for inner in nested for item in inner]


def fault(folder: Path, engine: str) -> str | None:
    """Return what is wrong with a family's job, in one line; None where it works.

    Args:
        folder: Of the family.
        engine: The job's.
    """
    outcome: dict[str, Any] = json.loads((folder / f"{engine}.json").read_text())
    if outcome["error"] is not None:
        return str(outcome["error"])
    lines = (folder / f"{engine}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    if len(records) != STEPS * SAMPLES:
        return f"{len(records)} samples in place of {STEPS * SAMPLES}"
    return next(filter(None, map(_fault_of, records)), None)


def _fault_of(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a sample."""
    if record["infos"]["thyme_images"] != 1 or record["n_images"] != 2:
        return f"{record['infos']['thyme_images']} images came back in place of one"
    features = record["features"]
    if not features["placed"] or features["placed"] != features["given"]:
        return f"{features['given']} visual features for {features['placed']} placeholders"
    ids, mask = flat(record["response_token_ids"]), flat(record["response_loss_mask"])
    trained = [i for i, m in zip(ids, mask, strict=True) if m]
    sampled = flat([turn["token_ids"] for turn in record["turns"]])
    if trained != sampled:
        return "the ids that are trained on are not those that the engine sampled"
    if record["trained_ids"][: len(sampled)] != sampled:
        return "a label stands on an id that was not sampled"
    engine = flat([turn["logprobs"] for turn in record["turns"]])
    differences = [abs(a - b) for a, b in zip(engine, record["trainer_logps"], strict=True)]
    if max(differences) > MOST_DIFFERENCE:
        return f"log-probabilities differ by {max(differences):.3g}"
    (block,) = record["infos"]["thyme_block_records"]
    first, second = record["turns"]
    appended = second["prompt_tokens"] - first["prompt_tokens"] - len(first["token_ids"])
    if block["tokens"] != appended:
        return f"an observation of {block['tokens']} tokens makes the prompt {appended} longer"
    return None
