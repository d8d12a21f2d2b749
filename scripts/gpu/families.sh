#!/usr/bin/env bash
# usage, here:           bash scripts/gpu/families.sh pack PARTS SCRIPTS FOLDER
#        on the GPU host: cd FOLDER && tar -xzf code.tgz && bash scripts/gpu/families.sh families peaks
# families: tiny random models of families with vLLM in colocate mode (gpu_families.py), all at once.
# peaks: memory of cards in jobs of real size, which `thyme plan` is held to.
# Results lie in OUT, a folder that the host gives back. PARTS and SCRIPTS are what prove/gpu_pack.sh
# takes: packed ms-swift and vLLM, and the folder with real/make_real.py.
set -uo pipefail
if [ "${1:-}" = pack ]; then
  set -e
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  parts=$2 shared=$3 folder=$4
  site=$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  work=$(mktemp -d)
  tar -C "$site" --exclude=__pycache__ --exclude=csrc --use-compress-program='xz -9' -cf "$work/more.txz" \
    $(cd "$site" && ls -d deepspeed deepspeed-*.dist-info hjson)
  xz -9c "$site/dashscope/resources/qwen.tiktoken" >"$work/qwen.tiktoken.xz"
  CODE="swift_thyme plugin scripts tests/__init__.py tests/plain.py tests/scripted_logits.py tests/families" \
    bash "$root/scripts/prove/gpu_pack.sh" "$parts" "$folder" "$work/more.txz" "$work/qwen.tiktoken.xz" \
    "$shared/real/make_real.py"
  rm -r "$work"
  exit
fi

here=$PWD began=$(date +%s)
say() { echo "$(($(date +%s) - began)) s: $*"; }
. scripts/prove/gpu_setup.sh
say "ms-swift and vLLM unpacked"
log=/tmp/log
mkdir -p /tmp/bin $log "$OUT"
printf '#!/bin/sh\nexec python3 -m swift.cli.main "$@"\n' >/tmp/bin/swift && chmod +x /tmp/bin/swift
export PATH=/tmp/bin:$PATH NCCL_NVLS_ENABLE=0 OMP_NUM_THREADS=4
gpus=$(nvidia-smi -L | wc -l) port=29600

make_models() { # SIZE...
  local size
  for size in "$@"; do
    CUDA_VISIBLE_DEVICES=$((gpus - 1)) timeout 200 python3 "$here/make_real.py" "/tmp/real/$size" "$size" \
      /tmp/qwen.tiktoken 16 >"$log/make_$size.log" 2>&1 || say "no model of size $size"
    say "model $size"
  done
}

families() { # FAMILIES: those that are tried, each with the type of its numbers
  local job family dtype turn=0 pids=()
  # The moment at which an engine looks at free memory must not be that of another one's start.
  for job in ${FAMILIES:-internvl_hf:bfloat16 glm4v:bfloat16 qwen3_5_moe:bfloat16 qwen3_vl_moe:bfloat16 \
    internvl_hf:float32 glm4v:float32 qwen3_5_moe:float32 qwen3_vl_moe:float32 \
    qwen3_5:bfloat16 glm4_5v:bfloat16 gemma3:bfloat16}; do
    family=${job%:*} dtype=${job#*:}
    port=$((port + 7))
    CUDA_VISIBLE_DEVICES=$((turn % gpus)) MASTER_PORT=$port timeout -k 5 "${FAMILY_S:-170}" \
      python3 scripts/gpu_families.py /tmp/families train "$family" "$dtype" >"$log/$family.$dtype.log" 2>&1 &
    pids+=($!)
    turn=$((turn + 1))
    if [ $((turn % gpus)) = 0 ]; then sleep 5; fi
  done
  wait "${pids[@]}"
  say "families"
  python3 scripts/gpu_families.py /tmp/families table | tee "$OUT/families.txt"
  # The host gives back few files.
  tar -C /tmp --exclude=model --exclude='*.safetensors' -czf "$OUT/families.tgz" families log
}

# peak NAME GPUS SIZE SECONDS [flags]: two steps of rl.sh; the largest memory of each card meanwhile.
peak() {
  local name=$1 cards=$2 size=$3 seconds=$4 watch
  shift 4
  port=$((port + 7))
  nvidia-smi -i "$cards" --query-gpu=index,memory.used --format=csv,noheader,nounits -lms 200 >"$log/$name.csv" &
  watch=$!
  MODEL=/tmp/real/$size/model DATASET=/tmp/real/$size/rl.jsonl SAVE_PATH=/tmp/out/$name MASTER_PORT=$port \
    CUDA_VISIBLE_DEVICES=$cards NPROC_PER_NODE=$(echo "$cards" | tr ',' '\n' | wc -l) VLLM_LOGGING_LEVEL=INFO \
    timeout -k 5 "$seconds" bash scripts/rl.sh --model_type qwen2_5_vl --template qwen2_5_vl --attn_impl sdpa \
    --external_plugins plugin/agent_rm.py scripts/gpu_peaks_plugin.py --max_steps 2 --save_strategy no \
    --reward_funcs fmt_orm vqa_orm --report_to none --use_hf true --check_model false --dataset_num_proc 1 --add_version false "$@" \
    >"$log/$name.log" 2>&1
  kill $watch
  {
    say "peak $name: GPUs $cards, $size, flags $*"
    awk -F', ' '{ if ($2 > m[$1]) m[$1] = $2 } END { for (g in m) print "  GPU " g ": " m[g] " MiB" }' "$log/$name.csv"
    grep -aE "PEAK|Model loading took|KV cache|Graph capturing|emory profiling" "$log/$name.log" | cut -c1-240 | sort | uniq | head -40
    grep -aoE "'?\"?(memory\(GiB\)|completions/mean_length|completions/max_length|global_step/max_steps|thyme/time/[a-z_]+)\"?'?: '?\"?[0-9./]*" "/tmp/out/$name/logging.jsonl" 2>/dev/null
    if ! grep -aq '"2/2"' "/tmp/out/$name/logging.jsonl" 2>/dev/null; then grep -aE "Error|error:" "$log/$name.log" | tail -3 | cut -c1-300; fi
  } | tee "$log/peak_$name.txt"
}

peaks() {
  local short=(--max_completion_length 1024 --vllm_enforce_eager true --gradient_accumulation_steps 4)
  if [ "$gpus" -ge 4 ]; then
    peak full4 0,1,2,3 3b 230 --max_completion_length 1536
    peak lora1 0 3b 190 --tuner_type lora --deepspeed zero2 --vllm_gpu_memory_utilization 0.4 "${short[@]}" &
    local first=$!
    port=$((port + 30))
    peak full2 1,2 3b 190 --vllm_gpu_memory_utilization 0.3 "${short[@]}" &
    local second=$!
    port=$((port + 30))
    peak lora7 3 7b 190 --tuner_type lora --deepspeed zero2 --vllm_gpu_memory_utilization 0.35 "${short[@]}" &
    wait $first $second $!
  else
    peak lora1 0 3b 190 --tuner_type lora --deepspeed zero2 --vllm_gpu_memory_utilization 0.4 "${short[@]}"
  fi
  cat $log/peak_*.txt >"$OUT/peaks.txt"
  tar -C /tmp -czf "$OUT/peaks.tgz" log
}

for phase in "$@"; do
  if [ "$phase" = families ]; then
    if [[ " $* " == *" peaks "* ]]; then
      make_models 3b 7b &
      making=$!
    fi
    families
  else
    wait "${making:-}" 2>/dev/null
    for size in 3b 7b; do [ -e "/tmp/real/$size/rl.jsonl" ] || make_models "$size"; done
    peaks
  fi
done
say "done"
ls -la "$OUT"
