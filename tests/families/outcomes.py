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


def read_samples(folder: Path, engine: str) -> list[dict[str, Any]]:
    """Return what the plugin wrote down of a family's job; nothing where it did not come so far."""
    path = folder / f"{engine}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def fault(
    folder: Path, engine: str, *, steps: int = STEPS, most_difference: float = MOST_DIFFERENCE
) -> str | None:
    """Return what is wrong with a family's job, in one line; None where it works.

    Args:
        folder: Of the family.
        engine: The job's.
        steps: Of the job.
        most_difference: Of a log-probability, between engine and trainer.
    """
    outcome: dict[str, Any] = json.loads((folder / f"{engine}.json").read_text())
    if outcome["error"] is not None:
        return str(outcome["error"])
    samples = read_samples(folder, engine)
    if len(samples) != steps * SAMPLES:
        return f"{len(samples)} samples in place of {steps * SAMPLES}"
    for sample in samples:
        found = _fault_of(sample)
        if found is not None:
            return found
    furthest = max(max(differences(sample)) for sample in samples)
    return f"log-probabilities differ by {furthest:.3g}" if furthest > most_difference else None


def differences(sample: dict[str, Any]) -> list[float]:
    """Return how far the log-probabilities of engine and trainer are apart, token by token."""
    engine = flat([turn["logprobs"] for turn in sample["turns"]])
    return [abs(a - b) for a, b in zip(engine, sample["trainer_logps"], strict=True)]


def _fault_of(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a sample, apart from its log-probabilities."""
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
    (block,) = record["infos"]["thyme_block_records"]
    first, second = record["turns"]
    appended = second["prompt_tokens"] - first["prompt_tokens"] - len(first["token_ids"])
    if block["tokens"] != appended:
        return f"an observation of {block['tokens']} tokens makes the prompt {appended} longer"
    return None
