"""Rows and comparison for `gpu_rollouts.sh`: the same scripted trajectories in both vLLM modes.

usage: python scripts/gpu_rollouts.py rows RL.jsonl N ROWS.jsonl
       python scripts/gpu_rollouts.py compare COLOCATE.jsonl SERVER.jsonl
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e import parity_scripts

NAMES = (
    "answer",
    "picture",
    "two pictures",
    "three turns",
    "error",
    "untrained code",
    "tag in code",
    "turn limit",
)
"""Scripts whose end does not depend on the lengths of the tiny model."""
EXACT = ("response_token_ids", "response_loss_mask", "messages", "finish_reason", "images")


def write_rows(source: Path, n: int, out: Path) -> None:
    """Let the question of each row name a script; rows and scripts take turns."""
    rows = [json.loads(line) for line in source.read_text().splitlines()[:n]]
    with out.open("w") as file:
        for number, row in enumerate(rows):
            asked = parity_scripts.question_of(NAMES[number % len(NAMES)])
            for message in row["messages"]:
                message["content"] = message["content"].replace(row["question"], asked)
            file.write(json.dumps({**row, "question": asked, "solution": "2"}) + "\n")


def read_samples(path: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the samples of a job by script and picture."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        found.setdefault((sample["script"], sample["images"][0]), []).append(sample)
    return found


def flat(nested: list[list[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]


def check(sample: dict[str, Any], broken: list[str]) -> None:
    """Note what is wrong with a sample on its own."""
    name, ids = sample["script"], flat(sample["response_token_ids"])
    mask, logprobs = flat(sample["response_loss_mask"]), flat(sample["rollout_logprobs"])
    end = sample["infos"]["thyme_end_reason"]
    if end != parity_scripts.ENDS[name]:
        broken.append(f"{name}: ended with {end}")
    if len(ids) != len(mask) or len(logprobs) != sum(mask):
        broken.append(f"{name}: {len(ids)} ids, {len(mask)} in the mask, {len(logprobs)} logprobs")


def compare(paths: tuple[Path, Path]) -> int:
    """Print what differs between two jobs; return how much that is."""
    colocate, server = map(read_samples, paths)
    broken: list[str] = []
    apart: list[float] = []
    shared = sorted(colocate.keys() & server.keys())
    for key in shared:
        first = colocate[key][0]
        for other in [*colocate[key][1:], *server[key]]:
            broken += [
                f"{key[0]}: {entry} differs" for entry in EXACT if first[entry] != other[entry]
            ]
            pairs = zip(
                flat(first["rollout_logprobs"]), flat(other["rollout_logprobs"]), strict=False
            )
            apart += [abs(a - b) for a, b in pairs]
    jobs = [[s for samples in job.values() for s in samples] for job in (colocate, server)]
    for sample in (s for job in jobs for s in job):
        check(sample, broken)
    counts = [len(job) for job in jobs]
    trained = sum(sum(flat(s["response_loss_mask"])) for job in jobs for s in job)
    returned = sum(len(s["images"]) - 1 for job in jobs for s in job)
    print(f"trajectories {counts[0]} colocate, {counts[1]} server; in both {len(shared)} rows")
    print(f"trained tokens {trained}, pictures returned {returned}")
    if apart:
        print(
            f"log-probabilities apart: median {statistics.median(apart):.4f}, most {max(apart):.4f}"
        )
    for line in sorted(set(broken)):
        print(f"broken: {line}")
    print(f"broken {len(broken)}")
    return min(len(broken), 1) if shared else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("source", type=Path)
    rows.add_argument("n", type=int)
    rows.add_argument("out", type=Path)
    both = commands.add_parser("compare")
    both.add_argument("colocate", type=Path)
    both.add_argument("server", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "rows":
        write_rows(arguments.source, arguments.n, arguments.out)
        return 0
    return compare((arguments.colocate, arguments.server))


if __name__ == "__main__":
    sys.exit(main())
