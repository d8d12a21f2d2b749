#!/usr/bin/env bash
# usage: in the folder that `families.sh pack` filled: OUT=FOLDER bash scripts/gpu/steps_call.sh [SECONDS]
# One call on an offline host with GPUs: makes a model of Qwen2.5-VL-3B's sizes and photo-sized
# pictures, then runs steps.sh before and after within SECONDS (default 560), and prints the
# table. BEFORE_STEPS (3) and AFTER_STEPS (4) are the steps of each. ALIKE=--alike gives all steps
# trajectories of the same lengths, so the first one can be held against the second.
set -u
end=$(($(date +%s) + ${1:-560}))
say() { echo "$((end - $(date +%s))) s left: $*"; }
here=$PWD
. scripts/prove/gpu_setup.sh
unset THYME_SANDBOX_WORKERS THYME_KEEP_TRAJECTORIES
mkdir -p /tmp/bin /tmp/real
printf '#!/bin/sh\nexec python3 -m swift.cli.main "$@"\n' >/tmp/bin/swift
chmod +x /tmp/bin/swift
export PATH=/tmp/bin:$PATH NCCL_NVLS_ENABLE=0
say "unpacked"
if [ ! -e /tmp/real/rl.jsonl ]; then
  python3 "$here/make_real.py" /tmp/real "${SIZE:-3b}" /tmp/qwen.tiktoken "${PICTURES:-32}" >/tmp/make.log 2>&1 ||
    { tail -5 /tmp/make.log; exit 1; }
fi
export MODEL=/tmp/real/model ROWS=/tmp/rows.jsonl
python3 scripts/gpu_steps.py rows /tmp/real/rl.jsonl $ROWS --rows "${PICTURES:-32}" ${ALIKE:-}
say "model and rows"
results=$OUT
export OUT=/tmp/steps
# Without torch.compile the engine starts a minute earlier; decoding is captured as CUDA graphs.
export ENGINE='{"logits_processors": ["rollout_policy:Policy"], "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4, 8]}}'
flags=(--attn_impl sdpa --model_type qwen2_5_vl --template qwen2_5_vl --check_model false --use_hf true)
# 20 trajectories a step, whatever the number of GPUs.
flags+=(--gradient_accumulation_steps $((20 / $(nvidia-smi -L | wc -l))))
# shellcheck disable=SC2206 # several words
flags+=(${FLAGS:-})
keep() {
  mkdir -p "$results"
  python3 scripts/gpu_steps.py table $OUT/before $OUT/after >"$results/table.txt" 2>/tmp/table.err || cat /tmp/table.err
  tar -czf "$results/steps.tgz" -C /tmp --exclude='*.safetensors' --exclude='*.jpg' --exclude='*.png' steps
}
way() { # NAME STEPS SECONDS
  timeout -k 25 "$3" bash scripts/gpu/steps.sh "$1" "${flags[@]}" --max_steps "$2" >"/tmp/steps/$1.log" 2>&1
  local status=$?
  # What a killed launcher left behind would take the next job's memory.
  nvidia-smi --query-compute-apps=pid --format=csv,noheader | xargs -r kill -9 2>/dev/null
  say "$1 ended with $status, $(cat $OUT/"$1"/logging.jsonl 2>/dev/null | grep -c 'thyme/time/step') steps"
  grep -hE "Error|error:" "/tmp/steps/$1.log" | tail -5 | cut -c1-300
}
mkdir -p /tmp/steps
way before "${BEFORE_STEPS:-3}" $(((end - $(date +%s)) * 58 / 100))
keep
way after "${AFTER_STEPS:-4}" $((end - $(date +%s) - 20))
keep
cat "$results/table.txt"
for step in 1 2; do
  echo "where the trainer's thread is before the loss, step $step after:"
  grep "in itself" $OUT/after/stacks.0.$step.txt | head -14
  grep "with what" $OUT/after/stacks.0.$step.txt | head -30
done
