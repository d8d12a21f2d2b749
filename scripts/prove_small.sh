#!/usr/bin/env bash
# usage: bash scripts/prove_small.sh [FOLDER [SEED]]
# The proof of docs/results.md made small, for two cores without a GPU: one seed, three kinds of items
# that need the tool and one that does not. It starts from scripts/prove/start_2m, the small model
# after supervised training with the tool (seed 0 there). Prints the table of that model, of the same
# after training without tools, and of the same after GRPO. What is finished is kept: a second call
# goes on from there. QUICK=1 takes a few steps and items, to see that it works.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
out=${1:-$root/output/prove_small}
start=$root/scripts/prove/start_2m
mkdir -p "$out/rl"
out=$(cd "$out" && pwd)
export PYTHONPATH="$root:$root/scripts" CPU=1 LOADERS=0 SEED=${2:-0} THYME_KEEP_TRAJECTORIES=1
# A job beside this one may have the usual port.
if [ -z "${MASTER_PORT:-}" ]; then
  MASTER_PORT=$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export MASTER_PORT
fi
rows=800 questions=300 items=60 direct_steps=150 rl_steps=36 batch=48 save=12 engine=vllm
if [ -n "${QUICK:-}" ]; then rows=16 questions=16 items=2 direct_steps=2 rl_steps=2 batch=8 save=1 engine=transformers; fi
began=$(date +%s)
say() { echo "$(($(date +%s) - began)) s: $*"; }
trap 'say "stopped; the same command goes on from here, and the logs are in $out" >&2' ERR

if [ ! -e "$out/data/done" ]; then
  # The start knows this one folder in its prompts, where its demonstrations lay, and is lost with another.
  for split in "--stage1 $rows --stage2 0 --rl 0 --eval $items --kinds read turned pale disc" \
    "--stage1 0 --stage2 0 --rl $questions --eval 0 --kinds read turned pale"; do
    # shellcheck disable=SC2086 # several words
    python -m prove.rows "$out/data" --seed "$SEED" --quote /tmp/d/s0/pictures $split >"$out/rows.log" 2>&1
  done
  touch "$out/data/done"
fi
say "data"
evaluate() { # NAME MODEL PASSES
  if [ -e "$out/$1.jsonl" ]; then return; fi
  python -m prove.evaluate "$2" "$out/data/eval.jsonl" "$out/$1.part" --engine $engine --memory 0.3 \
    --samples 2 --passes "${@:3}" >"$out/$1.eval.log" 2>&1
  mv "$out/$1.part" "$out/$1.jsonl"
}
evaluate sft "$start" tools:0 tools:1 withheld:0
say "evaluation of the start"
if [ ! -e "$out/rl/model/config.json" ]; then
  # A checkpoint is whole once its trainer's state is there: it is written last.
  resume=()
  last=$(find "$out/rl" -maxdepth 2 -path "*/checkpoint-*/trainer_state.json" | sort -V | tail -1)
  if [ -n "$last" ]; then resume=(--resume_from_checkpoint "$(dirname "$last")"); fi
  MODEL=$start DATA=$out/data/rl.jsonl OUT=$out/rl bash scripts/prove/train.sh grpo \
    --max_steps $rl_steps --per_device_train_batch_size $batch --learning_rate 1e-4 \
    --save_only_model false --save_steps $save --save_total_limit 2 "${resume[@]}" >"$out/rl.log" 2>&1
fi
say "GRPO"
evaluate rl "$out/rl/model" tools:0 tools:1
say "its evaluation"
if [ ! -e "$out/direct/model/config.json" ]; then
  MODEL=$start DATA=$out/data/direct1.jsonl OUT=$out/direct bash scripts/prove/train.sh sft \
    --max_steps $direct_steps --per_device_train_batch_size 16 >"$out/direct.log" 2>&1
fi
say "supervised training without tools"
evaluate direct "$out/direct/model" tools:0 tools:1
say "its evaluation"
compare() { # ARMS AND FLAGS OF THE TABLE
  python -m prove.table "$@" --kinds --against "SFT"
}
printf '\nSampled at temperature 1, %s items that need the tool and %s that do not, 2 samples of each:\n' $((3 * items)) $items
compare "no tools=$out/direct.jsonl" "SFT=$out/sft.jsonl" "SFT + RL=$out/rl.jsonl" --pass tools:1
printf '\nGreedy:\n'
compare "no tools=$out/direct.jsonl" "SFT=$out/sft.jsonl" "SFT + RL=$out/rl.jsonl" --pass tools:0
printf '\nGreedy, with the output of the tool withheld:\n'
compare "SFT=$out/sft.jsonl" --pass withheld:0
