#!/usr/bin/env bash
# The proof on four GPUs, in about 18 minutes: data, supervised training of all arms, GRPO of all
# arms, evaluation. usage: in the packed folder: setsid bash scripts/prove/gpu_main.sh
# Base models lie in /tmp/pre (2m_b, 14m_b); results go to /tmp/r. gpu_wait.sh waits and collects.
set -u
. scripts/prove/gpu_setup.sh
. scripts/prove/gpu_jobs.sh
export OMP_NUM_THREADS=2 THYME_SANDBOX_WORKERS=4
export THYME_JUDGE_URLS=http://127.0.0.1:8001/v1 THYME_KEEP_TRAJECTORIES=2
: "${SFT_STEPS_1:=700}" "${SFT_STEPS_2:=250}" "${RL_STEPS:=120}" "${RL_END:=880}"
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
    CUDA_VISIBLE_DEVICES=3 MASTER_PORT=29590 timeout 200 bash scripts/prove/train.sh grpo --max_steps 3
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
  THYME_SANDBOX_WORKERS=16 python3 scripts/prove/rows.py "$D/s$seed" --seed $seed --stage1 3000 --stage2 1500 \
    --rl 1000 --eval 0 --workers 18 >"$R/log/rows.$seed.log" 2>&1 &
  pids+=($!)
done
python3 scripts/prove/rows.py "$D/ev" --stage1 0 --stage2 0 --rl 0 --eval 50 --workers 8 >"$R/log/rows.ev.log" 2>&1 &
pids+=($!)
wait "${pids[@]}"
say "rows $(cat "$D"/*/*.jsonl | wc -l)"

# 2. Supervised training: two sizes, and the comparisons of the loss mask on the small one.
echo "sft" >"$R/phase"
declare -A sft
chain() { # NAME, then as sft_chain
  ports
  sft_chain $next_port "$2" "$1" "$3" "$4" "$5" "$6" "${@:7}" &
  sft[$1]=$!
}
for seed in 0 1 2; do
  chain 2m.tool.$seed $seed "$small" $seed stage 5
  chain 2m.direct.$seed $seed "$small" $seed direct 5
  chain 2m.unmasked.$seed $seed "$small" $seed stage 5 --loss_scale default
  chain 2m.rounds.$seed $seed "$small" $seed stage 5 --loss_scale thyme_all_rounds
done
for _ in $(seq 120); do
  if [ -e "$large/ready" ]; then break; fi
  sleep 1
done
say "large model: $(ls "$large" | wc -l) files"
for seed in 0 1 2; do
  chain 14m.tool.$seed 3 "$large" $seed stage 3
  chain 14m.direct.$seed $seed "$large" $seed direct 3
done
wait $probing

# 3. GRPO: main, and the comparisons on the small one. Evaluations of SFT go on beside it.
jobs_rl=() evals=()
train() { # NAME GPU SIZE SEED [flags]
  ports
  rl $next_port "$2" "$1" "$R/sft/$3.tool.$4.2/model" "$4" "${@:5}" &
  jobs_rl+=($!)
}
look() { # SLOT GPU NAME PASSES...
  evaluate "$1" "$2" "sft.$3" "$R/sft/$3.2/model" "${@:4}" &
  evals+=($!)
}
for seed in 0 1 2; do wait "${sft[2m.tool.$seed]}"; done
echo "rl" >"$R/phase"
for seed in 0 1 2; do
  train 2m.main.$seed $seed 2m $seed
  ATS=off train 2m.no_ats.$seed $seed 2m $seed
  THYME_TRAIN_CODE_TOKENS=false train 2m.no_code_tokens.$seed $seed 2m $seed
  train 2m.no_cst.$seed $seed 2m $seed --reward_funcs fmt_orm vqa_orm
done
for seed in 0 1 2; do
  look $seed 3 2m.tool.$seed tools:0 tools:1 withheld:0
done
for seed in 0 1 2; do
  wait "${sft[14m.tool.$seed]}"
  train 14m.main.$seed 3 14m $seed --learning_rate 5e-5
done
for seed in 0 1 2; do
  look $seed 3 14m.tool.$seed tools:0 tools:1
done
for seed in 0 1 2; do
  for kind in 2m.direct 2m.unmasked 2m.rounds 14m.direct; do
    wait "${sft[$kind.$seed]}"
    look $((seed + 3)) 3 $kind.$seed tools:0 $([ $kind = 2m.direct ] || echo tools:1)
  done
done
wait "${evals[@]}"
say "sft evaluated"
wait "${jobs_rl[@]}"

# 4. Evaluation after GRPO, at the same step for all arms of a size.
echo "final" >"$R/phase"
small_names=() large_names=()
for seed in 0 1 2; do
  small_names+=(2m.main.$seed 2m.no_ats.$seed 2m.no_code_tokens.$seed 2m.no_cst.$seed)
  large_names+=(14m.main.$seed)
done
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
  evaluate $((n + 10)) $((n % 4)) "rl.$name" "$R/rl/$name/model" "${passes[@]}" &
  evals+=($!)
  n=$((n + 1))
done
wait "${evals[@]}"
kill $judge
say "all done"
echo "done" >"$R/phase"
