#!/usr/bin/env bash
# usage: MODEL=... ROWS=... OUT=... bash scripts/gpu/steps.sh {before|after} [flags of swift rlhf]
# Steps of scripts/rl.sh with the policy of scripts/rollout_policy.py on rows of scripts/gpu_steps.py:
# `before` samples turn by turn and keeps no pictures, `after` is the default. Logs and counts go to
# $OUT/before and $OUT/after; `python scripts/gpu_steps.py table $OUT/before $OUT/after` compares.
# CPU=1 lets vLLM on a processor take weights.
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
way=${1:?usage: steps.sh before or after}
shift
case $way in
  before) export THYME_ROLLOUT=turns THYME_PICTURES_MB=0 ;;
  after) export THYME_ROLLOUT=continuous ;;
  *) echo "error: $way: expected before or after" >&2 && exit 2 ;;
esac
export PYTHONPATH="$root:$root/scripts${PYTHONPATH:+:$PYTHONPATH}"
export DATASET=$ROWS SAVE_PATH=$OUT/$way
mkdir -p "$SAVE_PATH"
engine=${ENGINE:-'{"logits_processors": ["rollout_policy:Policy"]}'}
plugins=("$root/plugin/agent_rm.py" "$root/scripts/gpu_steps_plugin.py")
if [ -n "${CPU:-}" ]; then plugins+=("$root/plugin/testbed.py"); fi
exec bash "$root/scripts/rl.sh" --external_plugins "${plugins[@]}" \
  --vllm_engine_kwargs "$engine" --save_strategy no --add_version false "$@"
