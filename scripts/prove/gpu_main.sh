#!/usr/bin/env bash
# One phase of the proof on the GPUs of one host: PHASE=sft (data, supervised training of all arms,
# their evaluation) or PHASE=rl (GRPO of all arms from the checkpoints of the first phase, and their
# evaluation). gpu_call.sh starts it. SIZE is 2m or 14m, BASE the pre-trained model, SFT_ARMS and
# RL_ARMS what is compared (RL_ARMS beside the main runs); RL_END is when GRPO stops, in
# seconds. GRPO asks RL_KINDS alone: where no answer of a group can be right, only noise is learned.
set -u
. scripts/prove/gpu_setup.sh
. scripts/prove/gpu_jobs.sh
: "${PHASE:?}" "${SIZE:=2m}" "${BASE:=$PRE/2m_b}" "${SEEDS=0 1 2}"
: "${SFT_STEPS_1:=1200}" "${SFT_STEPS_2:=400}" "${SFT_LR:=5}" "${SFT_ARMS=tool direct unmasked rounds}"
: "${RL_STEPS:=60}" "${RL_END:=470}" "${RL_LR:=1e-4}" "${RL_ARMS=no_ats no_code_tokens no_cst}"
: "${RL_BATCH:=128}" "${RL_KINDS=read turned pale pair disc}"
# nproc would obey OMP_NUM_THREADS.
cores=$(env -u OMP_NUM_THREADS nproc) gpus=$(nvidia-smi -L | wc -l) turn=0
export OMP_NUM_THREADS=2 THYME_SANDBOX_WORKERS=4 THYME_KEEP_TRAJECTORIES=2
export THYME_JUDGE_URLS=http://127.0.0.1:8001/v1
# Without compiling, the engine of each job starts a minute earlier.
echo '{"kv_cache_memory_bytes": 2000000000, "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256]}}' >"$R/engine"

make_rows() { # ROWS OF stage1, stage2, rl [KINDS]; the held-out items are the same for all seeds
  local seed share=$((cores / 4)) pids=()
  for seed in $SEEDS; do
    # shellcheck disable=SC2086 # several kinds
    THYME_SANDBOX_WORKERS=$share python3 -m prove.rows "$D/s$seed" --seed "$seed" --stage1 "$1" --stage2 "$2" \
      --rl "$3" --eval 0 --workers "$share" ${4:+--kinds $4} >"$R/log/rows.$seed.log" 2>&1 &
    pids+=($!)
  done
  python3 -m prove.rows "$D/ev" --stage1 0 --stage2 0 --rl 0 --eval 50 --workers "$share" >"$R/log/rows.ev.log" 2>&1 &
  wait "${pids[@]}" $!
  say "rows $(cat "$D"/*/*.jsonl | wc -l)"
}

supervised() {
  declare -A flags=([unmasked]="--loss_scale default" [rounds]="--loss_scale thyme_all_rounds")
  local arm seed rows pids=() slot=0
  for arm in $SFT_ARMS; do
    rows=stage
    if [ "$arm" = direct ]; then rows=direct; fi
    for seed in $SEEDS; do
      ports
      turn=$((turn + 1)) slot=$((slot + 1))
      {
        # shellcheck disable=SC2086 # several words
        sft_chain $next_port $((turn % gpus)) $SIZE.$arm.$seed "$BASE" $seed $rows $SFT_LR ${flags[$arm]:-}
        evaluate $((slot % 6)) $((turn % gpus)) sft.$SIZE.$arm.$seed "$R/sft/$SIZE.$arm.$seed.2/model" \
          tools:0 tools:1:0.9 withheld:0
      } &
      pids+=($!)
    done
  done
  wait "${pids[@]}"
}

reinforce() {
  local arm seed step name names=() pids=()
  python3 -m swift_thyme.rewards.local_judge --port 8001 >"$R/log/judge.log" 2>&1 &
  local judge=$!
  for seed in $SEEDS; do
    # A model whose evaluation an earlier call had no time for.
    turn=$((turn + 1)) name=$SIZE.tool.$seed
    if [ -e "$R/sft/$name.2/model" ] && [ ! -e "$R/eval/sft.$name.jsonl" ]; then
      evaluate "sft.$seed" $((turn % gpus)) "sft.$name" "$R/sft/$name.2/model" tools:0 tools:1:0.9 withheld:0 &
      pids+=($!)
    fi
  done
  for seed in $SEEDS; do
    for arm in main $RL_ARMS; do
      ports
      turn=$((turn + 1)) name=$SIZE.$arm.$seed
      names+=("$name")
      {
        case $arm in
          no_ats) export ATS=off ;;
          no_code_tokens) export THYME_TRAIN_CODE_TOKENS=false ;;
        esac
        extra=()
        if [ "$arm" = no_cst ]; then extra=(--reward_funcs fmt_orm vqa_orm); fi
        # Code that ran is rewarded, at code_orm's own weight.
        if [ "$arm" = code_orm ]; then extra=(--reward_funcs fmt_orm vqa_orm cst_orm code_orm); fi
        rl $next_port $((turn % gpus)) "$name" "$R/sft/$SIZE.tool.$seed.2/model" "$seed" \
          --learning_rate "$RL_LR" --per_device_train_batch_size "$RL_BATCH" "${extra[@]}"
      } &
      pids+=($!)
    done
  done
  wait "${pids[@]}"
  # All arms at the same step.
  step=$(last_step "${names[@]}")
  echo "{\"$SIZE\": $step}" >"$R/steps.json"
  say "evaluating step $step"
  pids=()
  for name in "${names[@]}"; do
    turn=$((turn + 1))
    ln -sfn "checkpoint-$step" "$R/rl/$name/model"
    evaluate $turn $((turn % gpus)) "rl.$name" "$R/rl/$name/model" tools:0 tools:1:0.9 withheld:0 &
    pids+=($!)
  done
  wait "${pids[@]}"
  kill $judge
}

if [ "$PHASE" = sft ]; then
  # A base that is too large to travel is made here, beside the data.
  if [ ! -e "$BASE/config.json" ]; then
    python3 -m prove.pretrain "$BASE" --size $SIZE --device cuda --seconds "${PRETRAIN:-200}" --seed 1 \
      --workers $((cores / 2)) >"$R/log/pretrain.log" 2>&1 &
    pretraining=$!
  fi
  make_rows 3000 1400 0
  wait "${pretraining:-}" 2>/dev/null
  supervised
else
  make_rows 0 0 2000 "$RL_KINDS"
  reinforce
fi
say "all done"
echo "done" >"$R/phase"
