# Sourced on the GPU host: the jobs of the proof as functions. R: results, D: data, PRE: base models.
R=${R:-/tmp/r} D=${D:-/tmp/d} PRE=${PRE:-/tmp/pre}
mkdir -p "$R"/{sft,rl,eval,log} "$D"
started=$(date +%s)
now() { echo "$(($(date +%s) - started))"; }
say() { echo "$(now) s: $*"; }
next_port=${FIRST_PORT:-29600}
ports() { next_port=$((next_port + 7)); }

# evaluate SLOT GPU NAME MODEL PASSES...: at most one at a time in a slot.
evaluate() {
  local slot=$1 gpu=$2 name=$3 model=$4
  shift 4
  CUDA_VISIBLE_DEVICES=$gpu flock "/tmp/slot.$slot" timeout 260 python3 -m prove.evaluate "$model" \
    "$D/ev/eval.jsonl" "$R/eval/$name.jsonl" --engine vllm --engine-kwargs "$(cat "$R/engine")" \
    --passes "$@" >"$R/log/eval.$name.log" 2>&1
  grep -h "right" "$R/log/eval.$name.log" || say "no evaluation of $name"
}

# sft_chain PORT GPU NAME BASE SEED ROWS LR [flags]: both stages; ROWS is stage or direct.
sft_chain() {
  local port=$1 gpu=$2 name=$3 base=$4 seed=$5 rows=$6 lr=$7
  shift 7
  export CUDA_VISIBLE_DEVICES=$gpu MASTER_PORT=$port SEED=$seed LOADERS=3
  MODEL=$base DATA=$D/s$seed/${rows}1.jsonl OUT=$R/sft/$name.1 bash scripts/prove/train.sh sft \
    --max_steps "$SFT_STEPS_1" --learning_rate "${lr}e-4" "$@" >"$R/log/sft.$name.1.log" 2>&1
  MODEL=$R/sft/$name.1/model DATA=$D/s$seed/${rows}2.jsonl OUT=$R/sft/$name.2 bash scripts/prove/train.sh sft \
    --max_steps "$SFT_STEPS_2" --learning_rate "$((lr * 4))e-5" "$@" >"$R/log/sft.$name.2.log" 2>&1
  say "sft $name $([ -e "$R/sft/$name.2/model/config.json" ] && echo done || echo FAILED)"
}

# rl PORT GPU NAME MODEL SEED [flags]: until RL_END seconds after the start, or RL_STEPS steps. A job
# that ends before its first checkpoint is started once more, with the setting of RL_AGAIN.
rl() {
  local port=$1 gpu=$2 name=$3 model=$4 seed=$5 setting
  shift 5
  if [ ! -e "$model/config.json" ]; then
    say "rl $name: no model $model"
    return
  fi
  export CUDA_VISIBLE_DEVICES=$gpu MASTER_PORT=$port SEED=$seed
  ENGINE_KWARGS=$(cat "$R/engine") && export ENGINE_KWARGS
  for setting in FIRST=1 "${RL_AGAIN:-}"; do
    if [ -z "$setting" ] || compgen -G "$R/rl/$name/checkpoint-*" >/dev/null; then continue; fi
    env "$setting" MODEL="$model" DATA="$D/s$seed/rl.jsonl" OUT="$R/rl/$name" \
      timeout -k 5 "$((RL_END - $(now)))" bash scripts/prove/train.sh grpo --max_steps "$RL_STEPS" \
      --save_steps 5 "$@" >>"$R/log/rl.$name.log" 2>&1
  done
  say "rl $name ended, $(tail -1 "$R/rl/$name/logging.jsonl" | grep -o '"global_step/max_steps": "[0-9/]*"')"
}

# last_step NAME...: the last step at which all of these have a checkpoint.
last_step() {
  local name least=100000 step
  for name in "$@"; do
    step=$(find "$R/rl/$name" -maxdepth 2 -name trainer_state.json -path '*checkpoint-*' 2>/dev/null |
      sed 's/.*checkpoint-\([0-9]*\).*/\1/' | sort -n | tail -1)
    if [ -n "$step" ] && [ "$step" -lt "$least" ]; then least=$step; fi
  done
  echo "$least"
}
