"""Writes the data of ``prove_small.sh``: the testbed's task, with demonstrations that use no tool.

    python -m prove.small OUT [--sft 2000] [--rl 320] [--eval 400] [--seed 0]

Files in OUT: ``direct.jsonl`` (the questions of the demonstrations, answered at once), ``rl.jsonl``
and ``eval.jsonl``. No two splits share a picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from prove.rows import write_rows
from swift_thyme.core.protocol import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from swift_thyme.core.reading import read
from swift_thyme.testbed.data import make_dataset, read_sentence

KIND = "read"


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--sft", type=int, default=2000)
    parser.add_argument("--rl", type=int, default=320)
    parser.add_argument("--eval", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paths = make_dataset(args.out, args.sft, args.rl, args.eval, seed=args.seed)
    direct = []
    for row in _rows(paths.sft):
        *asked, shown = row["messages"]
        number = read(shown["content"]).answer
        assert number is not None
        thought = f"{THINK_OPEN}{read_sentence(number)}{THINK_CLOSE}"
        said = f"{thought}\n{ANSWER_OPEN}{number}{ANSWER_CLOSE}"
        answer = {"role": "assistant", "content": said}
        direct.append({"messages": [*asked, answer], "images": row["images"][:1]})
    write_rows(args.out / "direct.jsonl", direct)
    write_rows(paths.eval, [{**row, "kind": KIND} for row in _rows(paths.eval)])


if __name__ == "__main__":
    main()
