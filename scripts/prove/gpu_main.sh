#!/usr/bin/env bash
# The proof on one to four GPUs, in about 17 minutes: data, supervised training of all arms, GRPO of
# all arms, evaluation. usage: in the packed folder: setsid bash scripts/prove/gpu_main.sh
# Base models lie in /tmp/pre (2m_b, 14m_b); results go to /tmp/r. gpu_wait.sh waits and collects.
# SFT_ARMS and RL_ARMS choose what is compared beside the main runs.
set -u
. scripts/prove/gpu_setup.sh
. scripts/prove/gpu_jobs.sh
export OMP_NUM_THREADS=2 THYME_SANDBOX_WORKERS=4
export THYME_JUDGE_URLS=http://127.0.0.1:8001/v1 THYME_KEEP_TRAJECTORIES=2
: "${SFT_STEPS_1:=450}" "${SFT_STEPS_2:=200}" "${RL_STEPS:=120}" "${RL_END:=860}"
: "${SFT_ARMS=direct unmasked rounds}" "${RL_ARMS=no_ats no_code_tokens no_cst}"
: "${LARGE_ARMS=tool}"
gpus=$(nvidia-smi -L | wc -l)
cores=$(nproc)
turn=0
small=$PRE/2m_b large=$PRE/14m_b
echo "rows" >"$R/phase"
python3 -m swift_thyme.rewards.local_judge --port 8001 >"$R/log/judge.log" 2>&1 &
judge=$!

# 1. Data, and on the side: does the engine start without compiling? That saves each job a minute.
fast='{"kv_cache_memory_bytes": 2000000000, "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64]}}'
echo '{"kv_cache_memory_bytes": 2000000000}' >"$R/engine"
probe() {
  python3 -m swift_thyme.testbed.data /tmp/try --n-sft 0 --n-rl 64 --n-eval 8 --seed 7
  ENGINE_KWARGS=$fast MODEL=/tmp/code/swift_thyme/testbed/model DATA=/tmp/try/rl.jsonl OUT=/tmp/try/rl SEED=0 \
    CUDA_VISIBLE_DEVICES=0 MASTER_PORT=29590 timeout 200 bash scripts/prove/train.sh grpo --max_steps 3
  if [ -e /tmp/try/rl/model/config.json ]; then
    echo "$fast" >"$R/engine"
    say "the engine starts without compiling"
  else
    say "the engine compiles"
  fi
}
probe >"$R/log/probe.log" 2>&1 &
probing=$!
pids=()
for seed in 0 1 2; do
  THYME_SANDBOX_WORKERS=$((cores / 3)) python3 scripts/prove/rows.py "$D/s$seed" --seed $seed --stage1 2000 \
    --stage2 900 --rl 640 --eval 0 --workers $((cores / 3)) >"$R/log/rows.$seed.log" 2>&1 &
  pids+=($!)
done
python3 scripts/prove/rows.py "$D/ev" --stage1 0 --stage2 0 --rl 0 --eval 50 --workers 8 >"$R/log/rows.ev.log" 2>&1 &
pids+=($!)
wait "${pids[@]}"
say "rows $(cat "$D"/*/*.jsonl | wc -l)"

# 2. Supervised training: two sizes, and the comparisons of the loss mask on the small one.
echo "sft" >"$R/phase"
declare -A sft
chain() { # NAME BASE SEED ROWS LR [flags]
  ports
  turn=$((turn + 1))
  sft_chain $next_port $((turn % gpus)) "$@" &
  sft[$1]=$!
}
declare -A flags=([unmasked]="--loss_scale default" [rounds]="--loss_scale thyme_all_rounds")
for seed in 0 1 2; do chain 2m.tool.$seed "$small" $seed stage 5; done
for arm in $SFT_ARMS; do
  rows=stage
  if [ "$arm" = direct ]; then rows=direct; fi
  # shellcheck disable=SC2086 # several words
  for seed in 0 1 2; do chain 2m.$arm.$seed "$small" $seed $rows 5 ${flags[$arm]:-}; done
done
for _ in $(seq 120); do
  if [ -e "$large/ready" ]; then break; fi
  sleep 1
done
say "large model: $(ls "$large" | wc -l) files"
for arm in $LARGE_ARMS; do
  rows=stage
  if [ "$arm" = direct ]; then rows=direct; fi
  for seed in 0 1 2; do chain 14m.$arm.$seed "$large" $seed $rows 3; done
done
wait $probing

# 3. GRPO: main, and the comparisons on the small one. Evaluations of SFT go on beside it.
jobs_rl=() evals=()
train() { # NAME SIZE SEED [flags]
  ports
  turn=$((turn + 1))
  rl $next_port $((turn % gpus)) "$1" "$R/sft/$2.tool.$3.2/model" "$3" "${@:4}" &
  jobs_rl+=($!)
}
look() { # SLOT NAME PASSES...
  turn=$((turn + 1))
  evaluate "$1" $((turn % gpus)) "sft.$2" "$R/sft/$2.2/model" "${@:3}" &
  evals+=($!)
}
for seed in 0 1 2; do wait "${sft[2m.tool.$seed]}"; done
echo "rl" >"$R/phase"
small_names=() large_names=()
for seed in 0 1 2; do
  train 2m.main.$seed 2m $seed
  small_names+=(2m.main.$seed)
  for arm in $RL_ARMS; do
    small_names+=(2m.$arm.$seed)
    case $arm in
      no_ats) ATS=off train 2m.$arm.$seed 2m $seed ;;
      no_code_tokens) THYME_TRAIN_CODE_TOKENS=false train 2m.$arm.$seed 2m $seed ;;
      no_cst) train 2m.$arm.$seed 2m $seed --reward_funcs fmt_orm vqa_orm ;;
    esac
  done
done
for seed in 0 1 2; do look $seed 2m.tool.$seed tools:0 tools:1 withheld:0; done
for seed in 0 1 2; do
  wait "${sft[14m.tool.$seed]}"
  train 14m.main.$seed 14m $seed --learning_rate 5e-5
  large_names+=(14m.main.$seed)
  look $seed 14m.tool.$seed tools:0 tools:1
done
for seed in 0 1 2; do
  for kind in $(printf '2m.%s ' $SFT_ARMS) $(printf '14m.%s ' ${LARGE_ARMS#tool}); do
    if [ -z "${sft[$kind.$seed]:-}" ]; then continue; fi
    wait "${sft[$kind.$seed]}"
    look $((seed + 3)) $kind.$seed tools:0
  done
done
wait "${evals[@]}"
say "sft evaluated"
wait "${jobs_rl[@]}"

# 4. Evaluation after GRPO, at the same step for all arms of a size.
echo "final" >"$R/phase"
step_small=$(last_step "${small_names[@]}") step_large=$(last_step "${large_names[@]}")
say "steps $step_small and $step_large"
echo "{\"2m\": $step_small, \"14m\": $step_large}" >"$R/steps.json"
evals=()
n=0
for name in "${small_names[@]}" "${large_names[@]}"; do
  step=$step_small passes=(tools:0 tools:1)
  if [[ $name == 14m* ]]; then step=$step_large; fi
  if [[ $name == *main* ]]; then passes+=(withheld:0); fi
  ln -sfn "checkpoint-$step" "$R/rl/$name/model"
  evaluate $((n + 10)) $((n % gpus)) "rl.$name" "$R/rl/$name/model" "${passes[@]}" &
  evals+=($!)
  n=$((n + 1))
done
wait "${evals[@]}"
kill $judge
say "all done"
echo "done" >"$R/phase"
