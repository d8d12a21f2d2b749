#!/usr/bin/env bash
# usage: bash scripts/prove_small.sh [FOLDER]
# The proof of docs/results.md made small: one seed, two kinds of items that need the tool and one
# that does not, on two cores without a GPU. It starts from scripts/prove/start_2m. Prints the table
# without tools, after supervised training, and after GRPO.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
out=${1:-$root/output/prove_small}
start=$root/scripts/prove/start_2m
mkdir -p "$out"
export PYTHONPATH="$root:$root/scripts${PYTHONPATH:+:$PYTHONPATH}" CPU=1 LOADERS=0 SEED="${SEED:-0}" THYME_KEEP_TRAJECTORIES=1
began=$(date +%s)
say() { echo "$(($(date +%s) - began)) s: $*"; }
finished() { [ -e "$out/$1/model/config.json" ]; }

if [ ! -e "$out/data/eval.jsonl" ]; then
  python -m prove.rows "$out/data" --seed "$SEED" --stage1 1000 --stage2 0 --rl 400 --eval 60 \
    --kinds read pale disc --workers 2 >"$out/rows.log" 2>&1
fi
say "data"
if ! finished direct; then
  MODEL=$start DATA=$out/data/direct1.jsonl OUT=$out/direct bash scripts/prove/train.sh sft --max_steps 200 \
    --per_device_train_batch_size 16 --learning_rate 6e-4 >"$out/direct.log" 2>&1
fi
say "supervised training without tools"
if ! finished tool; then
  MODEL=$start DATA=$out/data/stage1.jsonl OUT=$out/tool bash scripts/prove/train.sh sft --max_steps "${SFT_STEPS:-300}" \
    --per_device_train_batch_size 16 --learning_rate 6e-4 >"$out/tool.log" 2>&1
fi
say "supervised training with the tool"
if ! finished rl; then
  MODEL=$out/tool/model DATA=$out/data/rl.jsonl OUT=$out/rl bash scripts/prove/train.sh grpo --max_steps "${RL_STEPS:-32}" \
    --per_device_train_batch_size 32 >"$out/rl.log" 2>&1
fi
say "GRPO"
for name in direct tool rl; do
  if [ ! -e "$out/$name.jsonl" ]; then
    python -m prove.evaluate "$out/$name/model" "$out/data/eval.jsonl" "$out/$name.jsonl" --engine vllm \
      --memory 0.3 --passes tools:1 tools:0 >"$out/$name.eval.log" 2>&1
  fi
done
say "evaluation"
for pass in tools:1 tools:0; do
  echo
  echo "$([ $pass = tools:1 ] && echo "sampled at temperature 1" || echo "greedy"), 120 tool items and 60 others:"
  python -m prove.table "no tools=$out/direct.jsonl" "SFT=$out/tool.jsonl" "SFT + RL=$out/rl.jsonl" \
    --pass $pass --against SFT
done
