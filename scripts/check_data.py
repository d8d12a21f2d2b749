#!/usr/bin/env python
"""Converts a generated data set with planted faults, whole and killed at random moments.

Shows four things and exits with 1 where one fails: every planted fault is in rejected.jsonl with
its reason and nothing else is; a job that SIGKILL ends several times gives the same files, byte by
byte, as one that is left alone; no finished shard is worked on twice; the parent's peak memory is
under the limit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faulty_data import BROKEN_SHARE, Published, make_published

MEMORY_LIMIT_MB = 1000


def command(source: Path, out: Path, options: argparse.Namespace) -> list[str]:
    argv = [
        sys.executable,
        "-m",
        "swift_thyme.commands.main",
        "data",
        "sft",
        str(source),
        "--out",
        str(out),
    ]
    if options.workers:
        argv += ["--workers", str(options.workers)]
    return [*argv, "--rows-per-shard", str(options.rows_per_shard)]


def digest(folder: Path) -> str:
    """Hash names and contents of everything but the job's own records."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".work" not in path.relative_to(folder).parts:
            total.update(str(path.relative_to(folder)).encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def peak_memory_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM")), 0.0)


def run_whole(argv: list[str]) -> tuple[float, float]:
    """Run a job to its end; return its seconds and the parent's peak memory in MB."""
    started = time.monotonic()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, peak_memory_mb(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the job ended with status {process.returncode}")
    return time.monotonic() - started, peak


def finished_shards(out: Path) -> dict[str, tuple[int, int]]:
    folder = out / ".work" / "shards"
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        status = path.stat()
        found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


def run_killed(
    argv: list[str], out: Path, kills: int, whole_s: float, rng: random.Random
) -> tuple[int, int]:
    """Kill the job at random moments; return kills that met it alive and shards done again."""
    met, redone = 0, 0
    before: dict[str, tuple[int, int]] = {}
    while met < kills:
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        try:
            # Short enough for the job not to be done before the last kill, most of the time.
            process.wait(timeout=rng.uniform(0.2, 1.0 + 0.9 * whole_s / kills))
            shutil.rmtree(out)
            before = {}
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            met += 1
        after = finished_shards(out)
        redone += sum(after.get(name) != stamp for name, stamp in before.items() if after)
        before = after
    return met, redone


def wrong_rejections(data: Published, out: Path) -> list[str]:
    found = {}
    for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["file"], row["row"]] = row["reason"]
    return [
        f"{place}: planted {data.planted.get(place)}, found {found.get(place)}"
        for place in sorted(set(found) | set(data.planted))
        if found.get(place) != data.planted.get(place)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--broken-share", type=float, default=BROKEN_SHARE)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, help="worker processes; default: all cores")
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    source, out = folder / "source", folder / "out"
    rng = random.Random(options.seed)
    data = make_published(source, options.rows, options.seed, options.broken_share)
    argv = command(source, out, options)
    whole_s, peak_mb = run_whole(argv)
    wrong = wrong_rejections(data, out)
    reference = digest(out)
    run_whole(argv)
    again = digest(out)
    shutil.rmtree(out)
    kills, redone = run_killed(argv, out, options.kills, whole_s, rng)
    run_whole(argv)
    resumed = digest(out)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    result = {
        "rows": options.rows,
        "images": report["image_references"],
        "kept": report["kept"],
        "planted": len(data.planted),
        "kinds": len(set(data.planted.values())),
        "wrong": wrong,
        "seconds": round(whole_s, 1),
        "peak_parent_mb": round(peak_mb),
        "second_run_identical": again == reference,
        "kills": kills,
        "shards_redone": redone,
        "resumed_identical": resumed == reference,
    }
    for name, value in result.items():
        print(f"| {name} | {value} |")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.folder is None:
        shutil.rmtree(folder)
    good = (
        not wrong
        and again == resumed == reference
        and kills == options.kills
        and redone == 0
        and peak_mb < MEMORY_LIMIT_MB
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
