"""Tables of the proof, from the files of ``evaluate.py``.

    python -m prove.table NAME=a.jsonl[,b.jsonl,...] ... [--pass tools:1] [--against NAME]

A row is an arm, of one or several seeds; seeds answer the same items, so an item counts once
(``core/statistics.py``). Tool items and the others are separate columns. With ``--against`` each
other row also gets its difference to that arm on tool items: of pairs, where both arms answered the
same items equally often.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prove.items import KINDS, TOOL_KINDS
from swift_thyme.core.statistics import Estimate, difference, mean_difference, mean_score

Record = Mapping[str, Any]


def read(paths: Sequence[Path], wanted: str) -> list[Record]:
    """Return the trajectories of one pass."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    return [record for record in map(json.loads, lines) if record["pass"] == wanted]


def share(records: Sequence[Record], key: str) -> Estimate:
    """Return the share of records where ``key`` is true, with items as groups."""
    return mean_score([float(r[key]) for r in records], [r["index"] for r in records])


def percent(estimate: Estimate) -> str:
    """Return an estimate as a cell."""
    if estimate.mean is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.mean:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]".replace("%", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--pass", dest="wanted", default="tools:0")
    parser.add_argument("--against")
    parser.add_argument("--kinds", action="store_true", help="one column for each kind as well")
    args = parser.parse_args()
    arms: dict[str, list[Record]] = {}
    seeds: dict[str, int] = {}
    for arm in args.arms:
        name, _, files = arm.partition("=")
        paths = [Path(file) for file in files.split(",")]
        arms[name], seeds[name] = read(paths, args.wanted), len(paths)
    present = [k for k in KINDS if any(r["kind"] == k for r in next(iter(arms.values())))]
    head = ["arm", "seeds", "tool items, right", "tool used", "code ran", "other items, right"]
    if args.kinds:
        head += present
    if args.against:
        head.append(f"tool items, minus {args.against}")
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    tool = {n: [r for r in a if r["kind"] in TOOL_KINDS] for n, a in arms.items()}
    for name, records in arms.items():
        others = [r for r in records if r["kind"] not in TOOL_KINDS]
        statuses = [s for r in tool[name] for s in r["statuses"]]
        ran = f"{statuses.count('ok') / len(statuses):.1%}"[:-1] if statuses else "-"
        used = share(tool[name], "tool_used")
        cells = [name, str(seeds[name]), percent(share(tool[name], "right"))]
        cells += [percent(used).split(" ")[0], ran, percent(share(others, "right"))]
        if args.kinds:
            by_kind: dict[str, list[Record]] = defaultdict(list)
            for record in records:
                by_kind[record["kind"]].append(record)
            cells += [percent(share(by_kind[kind], "right")).split(" ")[0] for kind in present]
        if args.against:
            cells.append(gain(tool[name], tool[args.against]) if name != args.against else "")
        print("| " + " | ".join(cells) + " |")


def gain(first: Sequence[Record], second: Sequence[Record]) -> str:
    """Return the difference of two arms on tool items as a cell, in points."""
    a, b = share(first, "right"), share(second, "right")
    assert a.mean is not None and b.mean is not None
    one, other = in_order(first), in_order(second)
    if [r["index"] for r in one] == [r["index"] for r in other]:
        scores = ([float(r["right"]) for r in records] for records in (one, other))
        _, low, high, _ = mean_difference(*scores, [r["index"] for r in one])
        assert low is not None and high is not None
    else:
        items = [len({r["index"] for r in records}) for records in (first, second)]
        low, high = difference(a.mean, items[0], b.mean, items[1])
    return f"{a.mean - b.mean:+.1%} [{low:+.1%}, {high:+.1%}]".replace("%", "")


def in_order(records: Sequence[Record]) -> list[Record]:
    """Return records by item; those of an item stay in the order of seeds and samples."""
    return sorted(records, key=lambda record: record["index"])


if __name__ == "__main__":
    main()
