#!/usr/bin/env bash
# usage: MODEL=... ROWS=... OUT=... bash scripts/gpu_rollouts.sh {colocate|server} [flags of swift rlhf]
# Three steps of scripts/rl.sh or scripts/rl_server.sh with a scripted policy on rows of
# scripts/gpu_rollouts.py, which also compares what both were to train on ($OUT/MODE.jsonl).
# The steps' times are in $OUT/MODE/*/logging.jsonl.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:?usage: gpu_rollouts.sh colocate or server}
shift
export PYTHONPATH+=":$root" DATASET=$ROWS SAVE_PATH=$OUT/$mode
export THYME_CAPTURE=$OUT/$mode.jsonl
scripted='{"logits_processors": ["tests.e2e.parity_logits:ParityLogits"]}'
plugins=("$root/plugin/agent_rm.py" "$root/tests/e2e/parity_plugin.py")
same=(--multi_turn_scheduler parity --max_turns 3 --vllm_engine_kwargs "$scripted")
flags=(--external_plugins "${plugins[@]}" "$root/tests/e2e/parity_capture_plugin.py" "${same[@]}"
  --reward_funcs fmt_orm vqa_orm --max_steps 3 --save_strategy no)
if [ "$mode" = server ]; then
  export ROLLOUT_FLAGS="--external_plugins ${plugins[*]} --multi_turn_scheduler parity --max_turns 3
    --vllm_engine_kwargs {\"logits_processors\":[\"tests.e2e.parity_logits:ParityLogits\"]}
    ${ROLLOUT_FLAGS:-}"
  exec bash "$root/scripts/rl_server.sh" "${flags[@]}" "$@"
fi
exec bash "$root/scripts/rl.sh" "${flags[@]}" "$@"
