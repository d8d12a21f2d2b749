#!/usr/bin/env bash
# usage: OUT=FOLDER bash scripts/gpu/threads.sh [COUNTS]   (default: "own 1 4 8 16")
# How long a step of a one-process job takes with so many threads of torch (OMP_NUM_THREADS): GRPO of
# the embedded tiny model, 64 trajectories a step, as a plain `swift rlhf` starts it on one GPU. `own`
# leaves the number to the job. Prints the median of steps 2 to 5 and what it is of the best one.
# CPU=1 and STEPS=2 try it without a GPU; SWIFT="python3 -m swift.cli.main" where there is no `swift`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
mkdir -p "$OUT"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MODEL=swift_thyme/testbed/model DATA=$OUT/data/rl.jsonl
unset OMP_NUM_THREADS
if [ ! -e "$DATA" ]; then
  python3 -m swift_thyme.testbed.data "$OUT/data" --n-sft 0 --n-rl 256 --n-eval 0 --seed 5
fi
table() {
python3 - "$OUT" <<'PY'
import json, statistics, sys
from pathlib import Path

found = {}
for path in Path(sys.argv[1]).glob("*/logging.jsonl"):
    records = map(json.loads, path.read_text().splitlines())
    steps = [r["thyme/time/step"] for r in records if "thyme/time/step" in r]
    if len(steps) > 1:
        found[path.parent.name] = statistics.median(steps[1:])
for threads, seconds in found.items():
    print(f"{threads:>4} threads: {seconds:6.2f} s a step, {seconds / min(found.values()):.2f} of the best")
PY
}
for threads in ${1:-own 1 4 8 16}; do
  if [ "$threads" != own ]; then export OMP_NUM_THREADS=$threads; fi
  OUT=$OUT/$threads bash scripts/prove/train.sh grpo --max_steps "${STEPS:-5}" --vllm_enforce_eager true \
    >"$OUT/$threads.log" 2>&1 || echo "$threads: failed, see $OUT/$threads.log"
  # Now, not at the end: a call on a GPU host may be cut.
  table
done
