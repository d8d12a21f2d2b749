#!/usr/bin/env bash
# usage: bash scripts/quickstart.sh [flags of swift rlhf]
# From nothing to a trained step on a machine without a GPU: installs the environment, makes data,
# and lets unmodified ms-swift train the embedded tiny model with the real vLLM engine (CPU build).
# The flags given are added to the command and override its own.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/setup.sh
# shellcheck source=scripts/cpu_env.sh
. scripts/cpu_env.sh
out=${QUICKSTART_DIR:-$root/output/quickstart}

python -m swift_thyme.testbed.data "$out/data" --n-sft 0 --n-rl 256 --n-eval 96 --seed 7

swift rlhf \
  --rlhf_type grpo \
  --model swift_thyme/testbed/model --model_type qwen2_5_vl --template thyme_tiny \
  --external_plugins plugin/agent_rm.py plugin/testbed.py \
  --O3 true \
  --reward_funcs fmt_orm vqa_orm cst_orm \
  --dataset "$out/data/rl.jsonl" --val_dataset "$out/data/eval.jsonl" \
  --use_vllm true --vllm_mode colocate --vllm_max_model_len 1024 --vllm_enforce_eager true \
  --vllm_limit_mm_per_prompt '{"image": 6, "video": 0}' \
  --tuner_type full --torch_dtype float32 --attn_impl sdpa --use_cpu true \
  --max_steps 16 --learning_rate 5e-5 --lr_scheduler_type constant --beta 0 \
  --per_device_train_batch_size 32 --gradient_accumulation_steps 1 --num_generations 8 \
  --eval_strategy steps --eval_steps 16 --eval_on_start true \
  --per_device_eval_batch_size 96 --num_generations_eval 1 \
  --max_length 1024 --max_completion_length 200 --temperature 1.0 \
  --logging_steps 1 --log_completions true --report_to tensorboard \
  --save_strategy no --dataloader_num_workers 0 --load_from_cache_file false \
  --use_hf true --check_model false \
  --output_dir "$out/run" "$@"

python -m swift_thyme.view.run_table "$out/run"
python -m swift_thyme.commands.main view "$out/run" -o "$out/trajectories.html" --title quickstart
