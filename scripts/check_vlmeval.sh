#!/usr/bin/env bash
# usage: bash scripts/check_vlmeval.sh [ROWS] [ENGINE]
# Scores the embedded tiny model with VLMEvalKit through `thyme serve`, and with `thyme eval`, on the
# same generated files, and compares every prediction. VLMEvalKit (ms-vlmeval) goes into an
# environment of its own beside this one: VLMEVAL_ENV=FOLDER keeps it, else it is made anew.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
export PYTHONPATH=$root
rows=${1:-64} engine=${2:-transformers}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; wait; rm -rf "$work"' EXIT
env=${VLMEVAL_ENV:-$work/env}
if [ ! -x "$env/bin/python" ]; then
  uv venv --quiet --python .venv/bin/python "$env"
  # torch, transformers and the like are taken from here; the list is what VLMEvalKit imports.
  python -c 'import site; print(site.getsitepackages()[0])' > "$(ls -d "$env"/lib/python3.*/site-packages)/shared.pth"
  VIRTUAL_ENV=$env uv pip install --quiet --no-deps ms-vlmeval openpyxl et-xmlfile xlsxwriter tabulate \
    termcolor validators sty portalocker timeout-decorator levenshtein rapidfuzz jieba pylatexenc imageio \
    num2words scikit-learn narwhals threadpoolctl
fi
python -m swift_thyme.testbed.tsv "$work/data" --n "$rows" --seed 11
model=(--model swift_thyme/testbed/model --max-model-len 1024 --engine "$engine")
for name in plates_vstar plates_hrbench; do
  python -m swift_thyme.commands.main eval "${model[@]}" --data "$work/data/$name.tsv" --out "$work/ours/$name" \
    --prompt question --no-shuffle
done
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
THYME_API_KEY=check python -m swift_thyme.commands.main serve "${model[@]}" --port "$port" &
server=$!
until python -c "import httpx; httpx.get('http://127.0.0.1:$port/health')" 2>/dev/null; do
  kill -0 "$server"
  sleep 0.5
done
for name in plates_vstar plates_hrbench; do
  LMUData=$work/data THYME_API_KEY=check PRED_FORMAT=xlsx "$env/bin/python" scripts/check_vlmeval.py \
    "http://127.0.0.1:$port/v1" "$name" "$work/theirs" > "$work/$name.log" 2>&1 || {
    tail -30 "$work/$name.log" >&2
    exit 1
  }
  python - "$work" "$name" <<'PY'
import csv, json, sys
from pathlib import Path

work, name = Path(sys.argv[1]), sys.argv[2]
line = next(x for x in (work / f"{name}.log").read_text().splitlines() if x.startswith("RESULT"))
theirs = json.loads(line.removeprefix("RESULT"))
report = json.loads((work / "ours" / name / "report.json").read_text())
ours = report["results"]["tools"]["accuracy"]["mean"]
(path,) = (work / "ours" / name).glob("vlmeval/*/*.tsv")
csv.field_size_limit(1 << 30)
rows = list(csv.DictReader(open(path, newline=""), delimiter="\t"))
scores = theirs["scores"]
if "Overall" in scores[0]:
    accuracy = scores[0]["Overall"]
else:
    accuracy = next(s["accuracy"] for s in scores if s["cycle"] == "Average" and s["type"] == "all")
differ = 0
for row in rows:
    given = theirs["predictions"][row["index"]]
    letters = {row[letter]: letter for letter in "ABCD"}
    differ += letters.get(given, given) != (row["prediction"] or "Z")
print(f"{name}: thyme eval {100 * ours:.2f}, VLMEvalKit {100 * accuracy:.2f}, "
      f"{differ} of {len(rows)} predictions differ")
sys.exit(abs(ours - accuracy) > 1e-9 or differ > 0)
PY
done
