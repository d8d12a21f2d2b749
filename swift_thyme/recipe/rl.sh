#!/usr/bin/env bash
# usage: MODEL=stage2/checkpoint DATASET=rl.jsonl SAVE_PATH=... sh rl.sh [flags of swift rlhf]
# GRPO-ATS with vLLM beside the trainer on the same GPUs. Flags given here override.
# USE_VLLM=false lets transformers generate. The judge's address and the reward weights:
# .deepspeed_env (deepspeed_env.example).
[ -n "$BASH_VERSION" ] || exec bash "$0" "$@" # started by sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=swift_thyme/recipe/common.sh
. "$here/common.sh"
need MODEL "the checkpoint of the second stage"
need DATASET "the rows that thyme data rl wrote: one or more files, separated by blanks"
need SAVE_PATH "the folder for checkpoints"
find_plugin

export MAX_PIXELS=${MAX_PIXELS:-2408448}
engine=(--use_vllm false)
if switch USE_VLLM true; then
  engine=(--use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.55
    --vllm_limit_mm_per_prompt '{"image": 6}' --vllm_max_model_len 10240)
fi
# shellcheck disable=SC2086 # DATASET may name several files
launch rlhf \
  --rlhf_type grpo \
  --model "$MODEL" \
  --dataset $DATASET \
  --system "$here/prompt.txt" \
  --external_plugins "$plugin" \
  --O3 true --stop_words '<code>' \
  --reward_funcs fmt_orm vqa_orm cst_orm \
  "${engine[@]}" \
  --tuner_type full --freeze_vit true \
  --torch_dtype bfloat16 --attn_impl flash_attn \
  --deepspeed zero3 \
  --learning_rate 5e-7 --lr_scheduler_type cosine_with_min_lr \
  --lr_scheduler_kwargs '{"min_lr_rate": 0.1}' \
  --num_train_epochs 2 \
  --per_device_train_batch_size 1 --gradient_accumulation_steps 5 --num_generations 4 \
  --beta 0.01 --temperature 1.0 --top_p 0.9 --top_k 50 --repetition_penalty 1.05 \
  --max_length 10240 --max_completion_length 3196 --overlong_filter true \
  --dataloader_num_workers 4 --dataset_num_proc 4 \
  --save_steps 100 --save_total_limit 2 --logging_steps 1 --log_completions true \
  --report_to tensorboard \
  --output_dir "$SAVE_PATH" "$@"
