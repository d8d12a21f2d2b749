#!/usr/bin/env bash
# usage: bash scripts/prove_small.sh [FOLDER [QUESTIONS [STEPS_WITHOUT_TOOL [STEPS_OF_GRPO [SEED]]]]]
# Does the tool help, and does GRPO? The embedded model, with its tool, with the tool's output
# withheld, trained further without a tool, and after GRPO, asked the same held-out questions.
# On two cores, in less than half an hour; the last lines are a table with 95 % intervals. A second
# call goes on where the first one was stopped.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/setup.sh
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
out=${1:-$root/output/prove_small}
questions=${2:-400} sft_steps=${3:-300} rl_steps=${4:-40}
export PYTHONPATH="$root:$root/scripts" CPU=1 LOADERS=0 SEED=${5:-0} OUT
model=swift_thyme/testbed/model
mkdir -p "$out"
began=$(date +%s)

# once NAME COMMAND...: runs it where an earlier call has not; all that it says is in a log. What
# comes after a step that ran is run as well.
ran=false
once() {
  local name=$1
  shift
  if [ $ran = false ] && [ "$(cat "$out/$name.done" 2>/dev/null)" = "$*" ]; then return; fi
  ran=true
  rm -rf "${out:?}/$name" "$out/$name.done"
  if ! "$@" >"$out/$name.log" 2>&1; then
    tail -5 "$out/$name.log" >&2
    echo "error: $name failed; the whole log: $out/$name.log" >&2
    return 1
  fi
  echo "$*" >"$out/$name.done"
  echo "$(($(date +%s) - began)) s: $name" >&2
}

ask() { # NAME MODEL PASS...
  once "asked_$1" python -m prove.evaluate "$2" "$out/data/eval.jsonl" "$out/$1.jsonl" --engine vllm \
    --seed "$SEED" --passes "${@:3}"
}

once data python -m prove.small "$out/data" --sft $((16 * sft_steps < 2000 ? 16 * sft_steps : 2000)) \
  --rl $((8 * rl_steps)) --eval "$questions" --seed "$SEED"
ask with_tool $model tools:1:0.9 withheld:1:0.9
OUT=$out/no_tool
MODEL=$model DATA=$out/data/direct.jsonl once no_tool bash scripts/prove/train.sh sft \
  --max_steps "$sft_steps" --per_device_train_batch_size 16 --learning_rate 5e-4
ask without_tool "$out/no_tool/model" tools:1:0.9
OUT=$out/grpo
MODEL=$model DATA=$out/data/rl.jsonl once grpo bash scripts/prove/train.sh grpo \
  --max_steps "$rl_steps" --learning_rate 2e-4 --lr_scheduler_type cosine --warmup_ratio 0 --max_completion_length 200
ask after_grpo "$out/grpo/model" tools:1:0.9 withheld:1:0.9

python -m prove.table "no tool=$out/without_tool.jsonl" "SFT=$out/with_tool.jsonl" "SFT + GRPO=$out/after_grpo.jsonl" \
  --pass tools:1:0.9 --against SFT
echo
echo "The same, the tool's output withheld:"
python -m prove.table "SFT=$out/with_tool.jsonl" "SFT + GRPO=$out/after_grpo.jsonl" --pass withheld:1:0.9
echo "done in $(($(date +%s) - began)) s; $out has data, logs and models"
