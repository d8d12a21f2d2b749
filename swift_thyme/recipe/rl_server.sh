#!/usr/bin/env bash
# usage: MODEL=... DATASET=... SAVE_PATH=... sh rl_server.sh [flags of swift rlhf]
# GRPO-ATS as rl.sh, with vLLM in a server of its own (swift rollout): on the GPUs
# ROLLOUT_DEVICES (default: the last one) while the trainer has TRAIN_DEVICES (default: the others).
# With VLLM_SERVER_HOST the server runs elsewhere already and is only used. ROLLOUT_FLAGS go to
# swift rollout; flags given here go to swift rlhf and override.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
one_per_device=$([ -n "${NPROC_PER_NODE:-}" ] && echo no || echo yes)
# shellcheck source=swift_thyme/recipe/common.sh
. "$here/common.sh"
need MODEL "the checkpoint of the second stage"
need DATASET "the rows that thyme data rl wrote: one or more files, separated by blanks"
need SAVE_PATH "the folder for checkpoints"
find_plugin
export MAX_PIXELS=${MAX_PIXELS:-2408448}

gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
port=${VLLM_SERVER_PORT:-8000}
host=${VLLM_SERVER_HOST:-}
train=${TRAIN_DEVICES:-}

end_server() {
  kill -- "-$server" 2>/dev/null || true
  for _ in $(seq 50); do
    kill -0 -- "-$server" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -KILL -- "-$server" 2>/dev/null || true
}

if [ -z "$host" ]; then
  if [ "$gpus" -lt 2 ] && [ -z "${ROLLOUT_DEVICES:-}" ]; then
    echo "error: $gpus GPUs here; the server and the trainer need one each (or set" \
      "VLLM_SERVER_HOST, or ROLLOUT_DEVICES and TRAIN_DEVICES)" >&2
    exit 2
  fi
  host=127.0.0.1
  rollout=${ROLLOUT_DEVICES:-$((gpus - 1))}
  train=${train:-$(seq -s , 0 $((gpus - 2)))}
  if (: <"/dev/tcp/$host/$port") 2>/dev/null; then
    echo "error: a server answers on port $port already; end it, or set VLLM_SERVER_PORT" >&2
    exit 2
  fi
  # In a process group of its own, so that its workers end with it.
  # shellcheck disable=SC2086 # ROLLOUT_FLAGS are words
  CUDA_VISIBLE_DEVICES=$rollout setsid swift rollout \
    --model "$MODEL" \
    --external_plugins "$plugin" \
    --O3 true --stop_words '<code>' \
    --vllm_limit_mm_per_prompt '{"image": 6}' --vllm_max_model_len 10240 \
    --vllm_gpu_memory_utilization 0.9 \
    --torch_dtype bfloat16 --max_length 10240 \
    --host "$host" --port "$port" ${ROLLOUT_FLAGS:-} &
  server=$!
  trap end_server EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  until curl -fs "http://$host:$port/health/" >/dev/null; do
    if ! kill -0 "$server" 2>/dev/null; then
      echo "error: swift rollout ended before it was ready; see its messages above" >&2
      exit 1
    fi
    sleep 2
  done
fi

if [ -n "$train" ]; then
  export CUDA_VISIBLE_DEVICES=$train
  devices=${train//[^,]/}
  if [ "$one_per_device" = yes ]; then export NPROC_PER_NODE=$((${#devices} + 1)); fi
fi
bash "$here/rl.sh" \
  --vllm_mode server --vllm_server_host "$host" --vllm_server_port "$port" "$@"
